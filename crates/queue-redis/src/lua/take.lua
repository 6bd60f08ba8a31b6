-- KEYS: the consumer's sign of life, streams in the order of their turn. ARGV: expiry in ms, group, consumer, room,
-- then each stream's share. Takes each share, then fills the room that is left; waits for nothing.
-- Answers {whether the sign of life had lapsed, {{index, entries}…}, {index of a drained stream…}, {index, error…}}.
-- A full memory forbids SET; whoever still has a sign keeps it, and messages go out all the same.
local lapsed = 0
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then
  lapsed = 1
  redis.pcall('SET', KEYS[1], '1', 'PX', ARGV[1])
end
local group, consumer, room = ARGV[2], ARGV[3], tonumber(ARGV[4])
local answer, errors, empty = {}, {}, {}

local function read(i, count)
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', KEYS[i], '>')
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    -- From the first entry: what was published before anybody received is delivered, too.
    reply = redis.pcall('XGROUP', 'CREATE', KEYS[i], group, '0', 'MKSTREAM')
    if not reply.err then
      reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', KEYS[i], '>')
    end
  end
  if type(reply) == 'table' and reply.err then
    empty[i] = true
    errors[#errors + 1] = i - 2
    errors[#errors + 1] = reply.err
    return
  end
  local entries = reply and reply[1][2] or {}
  if #entries < count then empty[i] = true end
  if #entries > 0 then answer[#answer + 1] = {i - 2, entries} end
  room = room - #entries
end

for i = 2, #KEYS do
  local share = math.min(tonumber(ARGV[3 + i]), room)
  if share > 0 then read(i, share) end
end
for i = 2, #KEYS do
  if room > 0 and not empty[i] then read(i, room) end
end
local drained = {}
for i, _ in pairs(empty) do drained[#drained + 1] = i - 2 end
return {lapsed, answer, drained, errors}
