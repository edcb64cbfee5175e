-- Returns the scores of ids in the mailbox's index. KEYS: index. ARGV: ids. Returns a score or '' for each.
local index = KEYS[1]
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end

local results = {}
for i, id in ipairs(ARGV) do
  results[i] = redis.call('ZSCORE', index, id) or ''
end
return results
