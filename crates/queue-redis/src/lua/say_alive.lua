-- KEYS: the sign of life. ARGV: its expiry in ms. Answers whether it had lapsed.
-- A full memory forbids SET, not PEXPIRE.
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
