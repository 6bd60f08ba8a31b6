-- KEYS: stream. ARGV: group, consumer or '', ids. Answers the ids that the stream no longer has.
local consumer = ARGV[2] ~= '' and ARGV[2] or nil
local missing = {}
for i = 3, #ARGV do
  if not republish(KEYS[1], ARGV[1], ARGV[i], consumer) then missing[#missing + 1] = ARGV[i] end
end
return missing
