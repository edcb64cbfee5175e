-- Whether each of these ids has data. KEYS: the hash. ARGV: ids. Answers 1 or 0 for each.
local answers = {}
for i, id in ipairs(ARGV) do
  answers[i] = redis.call('HEXISTS', KEYS[1], id)
end
return answers
