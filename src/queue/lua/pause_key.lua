-- Lets a key rest. Only its holder may; a rest that has begun is only ever lengthened.
-- KEYS: slot. ARGV: run, paused:<reason>, rest in ms. Answers 1 when it rests as asked.
local wrong = misused(KEYS[1], 'string') or not_whole(3)
if wrong then
  return wrong
end
local holder = redis.call('GET', KEYS[1])
if not holder then
  return 0
end
local rests = string.sub(holder, 1, 7) == 'paused:'
if holder == ARGV[1] or (rests and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3])) then
  put(KEYS[1], ARGV[2], ARGV[3])
  return 1
end
return 0
