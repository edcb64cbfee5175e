-- Reads the data of ids, each group of them up to its share of bytes; of a priority the oldest. KEYS: data.
-- ARGV: entries per priority, bytes per group, bytes sampled of a priority, largest value, bytes shown of larger ones; then for
-- each id group (0 to 3 are the priorities), id.
-- Returns {content, size, value} for each; the content `cut` says that its group was full.
local data = KEYS[1]
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end
local per_class, part, sample_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local largest, shown = tonumber(ARGV[4]), tonumber(ARGV[5])

local rows, groups = {}, {}
for at = 6, #ARGV, 2 do
  local group = tonumber(ARGV[at])
  groups[group] = groups[group] or {}
  table.insert(groups[group], { id = ARGV[at + 1], row = #rows + 1 })
  rows[#rows + 1] = { 'cut', 0, '' }
end
for group, entries in pairs(groups) do
  local most, used = #entries, 0
  if group <= 3 then
    entries, most = oldest_first(data, entries, sample_bytes, largest), per_class
  end
  for i = 1, math.min(#entries, most) do
    local entry = entries[i]
    local cost = entry.cost or #entry.id + math.min(redis.call('HSTRLEN', data, entry.id), largest)
    if used > 0 and used + cost > part then
      break
    end
    used = used + cost
    rows[entry.row] = { data_row(data, entry.id, largest, shown) }
  end
end
return rows
