-- Extends the slots that the run still holds. KEYS: slots. ARGV: run, lifetime in ms. Answers 1 or 0 for each.
for _, key in ipairs(KEYS) do
  local wrong = misused(key, 'string')
  if wrong then
    return wrong
  end
end
if not is_whole(ARGV[2]) then
  return refuse('the lifetime is not a whole number')
end
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = redis.call('GET', key) == ARGV[1] and redis.call('PEXPIRE', key, ARGV[2]) or 0
end
return answers
