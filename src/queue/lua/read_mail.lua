-- Reads a slice of the mailbox and changes nothing.
-- ARGV: entries per class, looked at from each end of a class, bytes per part, bytes looked at of a class, largest mail, bytes
-- shown of larger mail, orphans, scan step.
-- Answers {more, scan from, scan to, rows}; a row is {source, id, id size, id digest, score, content, size, value}.
-- Each class has a part of its own, and so have the orphans and the scan: none keeps another outside. A class gives the oldest
-- of what is looked at from both of its ends. The scan takes all that it meets, and it meets everything: so nothing waits longer
-- than one tour, whatever its id.
local per_class, reach, part, look, largest = whole(1), whole(2), whole(3), whole(4), whole(5)
local shown, orphans, step = whole(6), whole(7), whole(8)
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

local seen = {}
for _, range in ipairs(CLASS_RANGES) do
  local entries = both_ends(INDEX, range, reach)
  local looked = oldest_first(DATA, entries, look, largest)
  local taken = 0
  used = 0
  while taken < math.min(#looked, per_class) and add('index', looked[taken + 1].id, looked[taken + 1].score) do
    taken = taken + 1
    seen[looked[taken].id] = true
  end
  if taken < #entries then
    more = 1
  end
end

-- The longest waiting, whose time may be up, and the newest, whose data is most likely to come.
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
  local score = not seen[id] and redis.call('ZSCORE', INDEX, id)
  -- One with a long id and a place is found again at its place only.
  if not seen[id] and not (score and #id > largest) then
    seen[id] = true
    -- What does not fit any more is met again: the cursor stays.
    if not add(score and 'index' or 'scan', id, score or '') then
      more, to = 1, from
      break
    end
  end
end
return { more, from, to, rows }
