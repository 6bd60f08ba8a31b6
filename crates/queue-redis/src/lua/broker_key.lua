-- KEYS: stream. ARGV: a random value, the last id that this process knows of (ms, seq).
-- The broker key is the name of a second group of the stream itself: it is lost with the stream, however that is lost.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err and string.find(groups.err, 'WRONGTYPE', 1, true) then return groups end
local name
if not groups.err then
  for _, group in ipairs(groups) do
    for i = 1, #group, 2 do
      if group[i] == 'name' and string.sub(group[i + 1], 1, 4) == 'key:' then name = group[i + 1] end
    end
  end
end
if name then
  -- A stream whose last id lies before one that it has answered has lost entries: an older snapshot, a failover.
  local stream = redis.call('XINFO', 'STREAM', KEYS[1])
  local last = '0-0'
  for i = 1, #stream, 2 do
    if stream[i] == 'last-generated-id' then last = stream[i + 1] end
  end
  local ms, seq = string.match(last, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  local known_ms, known_seq = tonumber(ARGV[2]), tonumber(ARGV[3])
  if ms > known_ms or (ms == known_ms and seq >= known_seq) then return string.sub(name, 5) end
  redis.call('XGROUP', 'DESTROY', KEYS[1], name)
end
redis.call('XGROUP', 'CREATE', KEYS[1], 'key:' .. ARGV[1], '$', 'MKSTREAM')
return ARGV[1]
