-- KEYS: stream. ARGV: group. Answers {all entries, those that somebody holds}.
local all = redis.call('XLEN', KEYS[1])
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if pending.err then return {all, 0} end
return {all, pending[1]}
