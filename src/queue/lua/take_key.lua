-- Takes a key's slot when it is free, or the run's already. KEYS: slot, rate. ARGV: run, lifetime in ms.
-- Answers {taken, holder, ms left, learned rate}.
local wrong = misused(KEYS[1], 'string') or misused(KEYS[2], 'string') or not_whole(2)
if wrong then
  return wrong
end
local holder = redis.call('GET', KEYS[1])
-- Ours already: the answer to the same question was lost.
if holder and holder ~= ARGV[1] then
  return { 0, holder, redis.call('PTTL', KEYS[1]), '' }
end
put(KEYS[1], ARGV[1], ARGV[2])
return { 1, '', 0, redis.call('GET', KEYS[2]) or '' }
