-- KEYS: streams. ARGV: group, then for each stream how many ids, and these. A script, because a full memory forbids
-- transactions, and what is done must be able to go just then.
local at = 2
for _, stream in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  for first = at + 1, at + count, 1000 do
    local last = math.min(first + 999, at + count)
    redis.call('XACK', stream, ARGV[1], unpack(ARGV, first, last))
    redis.call('XDEL', stream, unpack(ARGV, first, last))
  end
  at = at + count + 1
end
return 0
