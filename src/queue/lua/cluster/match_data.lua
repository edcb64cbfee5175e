-- Compares data with what was read, and deletes the unchanged data when asked to. KEYS: data.
-- ARGV: delete (0 or 1), cursor at which the scan began, largest mail; then for each entry id, id digest, content, size, value.
-- Returns 1 for each unchanged entry, else 0.
local data, delete, from, largest = KEYS[1], ARGV[1] == '1', ARGV[2], tonumber(ARGV[3])
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end

local results = {}
for at = 4, #ARGV, 5 do
  local id, digest, content, size, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4]
  if digest ~= '' then
    id = long_id_in_data(data, from, digest, largest)
  end
  local same = content == 'missing' and not id or id and is_same_data(data, id, content, size, value)
  if same and id and delete then
    redis.call('HDEL', data, id)
  end
  results[#results + 1] = same and 1 or 0
end
return results
