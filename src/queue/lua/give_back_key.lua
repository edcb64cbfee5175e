-- Lets the slot live on for one interval, no longer the run's, so that a late renewal cannot bring it back.
-- KEYS: slot. ARGV: run, what stands there instead, linger in ms. Answers 1 when the slot was the run's.
local wrong = misused(KEYS[1], 'string') or not_whole(3)
if wrong then
  return wrong
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
put(KEYS[1], ARGV[2], ARGV[3])
return 1
