-- Extends the slots that the run still holds. KEYS: slots. ARGV: run, lifetime in ms. Answers 1 or 0 for each.
local wrong = not_whole(2)
for _, key in ipairs(KEYS) do
  wrong = wrong or misused(key, 'string')
end
if wrong then
  return wrong
end
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = redis.call('GET', key) == ARGV[1] and redis.call('PEXPIRE', key, ARGV[2]) or 0
end
return answers
