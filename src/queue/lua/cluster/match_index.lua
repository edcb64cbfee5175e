-- Says which index entries are still as they were read, and deletes those when asked to. KEYS: index.
-- ARGV: delete (0 or 1), longest id, then of each entry: id, id digest, score. Answers 1 or 0 for each.
local index, delete, largest = KEYS[1], ARGV[1] == '1', tonumber(ARGV[2])
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end

local answers = {}
for at = 3, #ARGV, 3 do
  local id, digest, score = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if digest ~= '' then
    id = score ~= '' and long_id_in_index(index, score, digest, largest) or nil
  end
  local same = id and is_same_place(index, id, score) or (not id and score == '')
  if same and id and delete then
    redis.call('ZREM', index, id)
  end
  answers[#answers + 1] = same and 1 or 0
end
return answers
