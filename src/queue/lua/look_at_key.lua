-- Looks at a key's slot. KEYS: slot, rate. Answers {holder, ms left, learned rate}.
local wrong = misused(KEYS[1], 'string') or misused(KEYS[2], 'string')
if wrong then
  return wrong
end
return { redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2]) or '' }
