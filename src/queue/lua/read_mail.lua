-- Reads a slice of the mailbox and changes nothing.
-- ARGV: entries per class, bytes per part, largest mail, bytes shown of larger mail, orphans, scan step.
-- Answers {more, scan from, scan to, rows}; a row is {source, id, id size, id digest, score, content, size, value}.
-- Each class has a part of its own, and so have the orphans and the scan: none keeps another outside.
local per_class, part, largest = whole(1), whole(2), whole(3)
local shown, orphans, step = whole(4), whole(5), whole(6)
local wrong = problem()
if wrong then
  return wrong
end

local rows, more, used = {}, 0, 0

-- Adds an entry unless its part is full. What is larger than allowed is shown by its size and its start only.
local function add(source, id, score)
  local size = redis.call('HSTRLEN', DATA, id)
  local cost = math.min(#id, largest) + math.min(size, largest)
  if used > 0 and used + cost > part then
    return false
  end
  used = used + cost
  local told, id_size, digest = told_id(id, largest, shown)
  local content, bytes, value = told_data(DATA, id, largest, shown)
  rows[#rows + 1] = { source, told, id_size, digest, score, content, bytes, value }
  return true
end

for _, range in ipairs(CLASS_RANGES) do
  local found = redis.call('ZRANGEBYSCORE', INDEX, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, per_class + 1)
  used = 0
  for i = 1, #found, 2 do
    if i > 2 * per_class or not add('index', found[i], found[i + 1]) then
      more = 1
      break
    end
  end
end

-- The longest waiting, whose time may be up, and the newest, whose data is most likely to come.
local seen = {}
used = 0
for _, command in ipairs({ 'ZRANGE', 'ZREVRANGE' }) do
  local found = redis.call(command, ORPHANS, 0, orphans - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    -- An orphan that is in the index again is read from there.
    if not seen[found[i]] and not redis.call('ZSCORE', INDEX, found[i]) then
      if not add('orphan', found[i], found[i + 1]) then
        more = 1
        break
      end
    end
    seen[found[i]] = true
  end
end

local from = redis.call('GET', SCAN) or '0'
if #from > 19 or not string.match(from, '^%d+$') then
  from = '0'
end
local found = redis.call('HSCAN', DATA, from, 'COUNT', step)
local to = found[1]
used = 0
for i = 1, #found[2], 2 do
  local id = found[2][i]
  if not seen[id] and not redis.call('ZSCORE', INDEX, id) then
    seen[id] = true
    -- What does not fit any more is met again: the cursor stays.
    if not add('scan', id, '') then
      more, to = 1, from
      break
    end
  end
end
return { more, from, to, rows }
