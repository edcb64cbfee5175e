-- Says which data is still as it was read, and deletes that when asked to. KEYS: data.
-- ARGV: delete (0 or 1), where the scan began, largest mail, then of each entry: id, id digest, content, size, value.
-- Answers 1 or 0 for each.
local data, delete, from, largest = KEYS[1], ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end

local answers = {}
for at = 4, #ARGV, 5 do
  local id, digest, content, size, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  if digest ~= '' then
    id = long_id_in_data(data, from, digest, largest)
  end
  local same = content == 'missing' and not id or id and is_same_data(data, id, content, size, value)
  if same and id and delete then
    redis.call('HDEL', data, id)
  end
  answers[#answers + 1] = same and 1 or 0
end
return answers
