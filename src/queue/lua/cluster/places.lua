-- The scores that the mailbox's index has for ids. KEYS: index. ARGV: ids. Answers a score or '' for each.
local index = KEYS[1]
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end

local answers = {}
for i, id in ipairs(ARGV) do
  answers[i] = redis.call('ZSCORE', index, id) or ''
end
return answers
