-- Ends a rest. KEYS: slot. Answers 1 when there was one.
local wrong = misused(KEYS[1], 'string')
if wrong then
  return wrong
end
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, 7) == 'paused:' then
  return redis.call('DEL', KEYS[1])
end
return 0
