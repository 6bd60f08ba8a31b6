-- KEYS: stream, the consumer's sign of life. ARGV: group, consumer, at most so many.
-- Publishes again what a dead consumer held, and deletes the consumer when it holds nothing. Answers how many, or -1
-- where it lives.
if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[3], ARGV[2])
for _, entry in ipairs(pending) do republish(KEYS[1], ARGV[1], entry[1], ARGV[2]) end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return #pending
