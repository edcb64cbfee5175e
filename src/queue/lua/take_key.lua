-- Takes a key's slot when it is free. KEYS: slot, rate. ARGV: run, lifetime in ms.
-- Answers {taken, holder, ms left, learned rate}.
local wrong = misused(KEYS[1], 'string') or misused(KEYS[2], 'string') or not_whole(2)
if wrong then
  return wrong
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return { 1, '', 0, redis.call('GET', KEYS[2]) or '' }
end
return { 0, redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), '' }
