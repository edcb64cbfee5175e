-- Reads a slice of each class of the mailbox's index. KEYS: index.
-- ARGV: entries per class, bytes of ids per class, longest id, bytes shown of longer ids.
-- Answers {more, rows}; a row is {class, id, id size, id digest, score}.
local index = KEYS[1]
local wrong = misused(index, 'zset')
if wrong then
  return wrong
end
local per_class, part, largest, shown = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local rows, more = {}, 0
for class, range in ipairs(CLASS_RANGES) do
  local found = redis.call('ZRANGEBYSCORE', index, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, per_class + 1)
  local used = 0
  for i = 1, #found, 2 do
    local cost = math.min(#found[i], largest)
    if i > 2 * per_class or (used > 0 and used + cost > part) then
      more = 1
      break
    end
    used = used + cost
    local id, size, digest = told_id(found[i], largest, shown)
    rows[#rows + 1] = { class - 1, id, size, digest, found[i + 1] }
  end
end
return { more, rows }
