-- Compares index entries with what was read, and deletes the unchanged ones when asked to. KEYS: index.
-- ARGV: delete (0 or 1), longest id; then for each entry id, id digest, score. Returns 1 for each unchanged entry, else 0.
local index, delete, largest = KEYS[1], ARGV[1] == '1', tonumber(ARGV[2])
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end

local results = {}
for at = 3, #ARGV, 3 do
  local id, digest, score = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if digest ~= '' then
    id = score ~= '' and long_id_in_index(index, score, digest, largest) or nil
  end
  local same = id and is_same_place(index, id, score) or (not id and score == '')
  if same and id and delete then
    redis.call('ZREM', index, id)
  end
  results[#results + 1] = same and 1 or 0
end
return results
