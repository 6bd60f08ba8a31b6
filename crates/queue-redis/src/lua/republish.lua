-- Adds an entry again, under a new id, and settles the old one. Answers false where the stream has no such entry.
-- With a consumer, only what that consumer still holds.
local function republish(stream, group, id, consumer)
  local found = redis.call('XRANGE', stream, id, id)[1]
  if not found then
    redis.call('XACK', stream, group, id)
    return false
  end
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
  -- An entry that nobody holds (the group was made anew) is delivered anyhow.
  if pending.err or not pending[1] then return true end
  if consumer and pending[1][2] ~= consumer then return true end
  redis.call('XADD', stream, '*', unpack(found[2]))
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  return true
end
