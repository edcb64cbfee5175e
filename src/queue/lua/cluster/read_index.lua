-- Reads the entries of each priority of the mailbox's index, by turns from either end. KEYS: index.
-- ARGV: entries from each end, bytes of ids per priority, longest id, bytes shown of longer ids.
-- Returns {more, rows}; a row is {priority, id, id size, id digest, score}.
local index = KEYS[1]
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end
local reach, part, largest, shown = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local rows, more = {}, 0
for class, range in ipairs(CLASS_RANGES) do
  local used = 0
  for _, entry in ipairs(both_ends(index, range, reach)) do
    local cost = math.min(#entry.id, largest)
    if used > 0 and used + cost > part then
      more = 1
      break
    end
    used = used + cost
    local id, size, digest = id_row(entry.id, largest, shown)
    rows[#rows + 1] = { class - 1, id, size, digest, entry.score }
  end
end
return { more, rows }
