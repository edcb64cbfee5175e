-- Reads a slice of the mailbox and changes nothing.
-- ARGV: entries per priority, entries sampled from each end of a priority, bytes per part, bytes sampled of a priority, largest
-- mail, bytes shown of larger mail, most orphans, scan step.
-- Returns {more, scan from, scan to, rows}; a row is {source, id, id size, id digest, score, content, size, value}.
-- Each priority has a part of its own, and so have the orphans and the scan: none blocks another. A priority yields the oldest
-- of a sample from both of its ends. The scan takes everything that it meets, and one tour meets everything: so no mail waits
-- longer than a tour, whatever its id.
local per_class, reach, part, sample_bytes, largest = whole(1), whole(2), whole(3), whole(4), whole(5)
local shown, orphans, step = whole(6), whole(7), whole(8)
local wrong = problem()
if wrong then
  return wrong
end

local rows, more, used = {}, 0, 0

-- Adds an entry unless its part is full. Of larger mail only the size and the start are returned.
local function add(source, id, score)
  local size = redis.call('HSTRLEN', DATA, id)
  local cost = math.min(#id, largest) + math.min(size, largest)
  if used > 0 and used + cost > part then
    return false
  end
  used = used + cost
  local shown_id, id_size, digest = id_row(id, largest, shown)
  local content, bytes, value = data_row(DATA, id, largest, shown)
  rows[#rows + 1] = { source, shown_id, id_size, digest, score, content, bytes, value }
  return true
end

local seen = {}
for _, range in ipairs(CLASS_RANGES) do
  local entries = both_ends(INDEX, range, reach)
  local sample = oldest_first(DATA, entries, sample_bytes, largest)
  local taken = 0
  used = 0
  while taken < math.min(#sample, per_class) and add('index', sample[taken + 1].id, sample[taken + 1].score) do
    taken = taken + 1
    seen[sample[taken].id] = true
  end
  if taken < #entries then
    more = 1
  end
end

-- The longest waiting, which may time out, and the newest, whose data is most likely to come.
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
  -- A long id with an index entry is only found again at its place in the index.
  if not seen[id] and not (score and #id > largest) then
    seen[id] = true
    -- The cursor stays, so that the next step meets again what did not fit.
    if not add(score and 'index' or 'scan', id, score or '') then
      more, to = 1, from
      break
    end
  end
end
return { more, from, to, rows }
