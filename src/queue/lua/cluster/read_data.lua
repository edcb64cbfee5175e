-- Reads the data of ids, each group of them up to its share of bytes. KEYS: data.
-- ARGV: bytes per group, largest value, bytes shown of larger ones, then of each id: group, id.
-- Answers {content, size, value} for each; the content `cut` is that its group was full.
local data = KEYS[1]
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end
local part, largest, shown = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local rows, used, cut = {}, {}, {}
for at = 4, #ARGV, 2 do
  local group, id = ARGV[at], ARGV[at + 1]
  local before = used[group] or 0
  local cost = #id + math.min(redis.call('HSTRLEN', data, id), largest)
  if cut[group] or (before > 0 and before + cost > part) then
    cut[group] = true
    rows[#rows + 1] = { 'cut', 0, '' }
  else
    used[group] = before + cost
    rows[#rows + 1] = { told_data(data, id, largest, shown) }
  end
end
return rows
