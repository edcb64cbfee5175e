-- Merges a slice of mail into the queue and deletes it from the mailbox: each entry only when index and data are still
-- as they were read. What changed stays for the next slice.
-- ARGV: now, most unreadable letters, scan from, scan to, largest mail, entries; then of each entry
-- source, id, id digest, score, content, size, value, action, and what the action needs.
-- Answers {admitted, unreadable, changed, orphaned, orphans dropped, found by scan}.
local now, most_letters = whole(1), whole(2)
local scan_from, scan_to, largest, count = text(3), text(4), whole(5), whole(6)
local entries, at = {}, 7
for i = 1, count do
  local entry = {
    source = text(at), id = text(at + 1), digest = text(at + 2), score = text(at + 3),
    content = text(at + 4), size = whole(at + 5), value = text(at + 6), action = text(at + 7),
  }
  at = at + 8
  if entry.action == 'admit' then
    entry.name = text(at)
    entry.wish = {
      priority = whole(at + 1), first = whole(at + 2), last = whole(at + 2), due = whole(at + 3),
      attempts = whole(at + 4),
    }
    at = at + 5
  elseif entry.action == 'refuse' then
    entry.name, entry.letter = text(at), text(at + 1)
    at = at + 2
  elseif entry.action == 'set_aside' then
    entry.class = whole(at)
    at = at + 1
  elseif entry.action ~= 'drop' then
    bad_argument = bad_argument or at - 1
  end
  entries[i] = entry
end
local wrong = problem()
if wrong then
  return wrong
end

-- The id behind a digest: ids too long to be sent are found again where they were read.
local function find_long_id(entry)
  local found
  if entry.source == 'index' then
    found = redis.call('ZRANGEBYSCORE', INDEX, entry.score, entry.score, 'LIMIT', 0, 2000)
  else
    found = redis.call('HSCAN', DATA, scan_from, 'COUNT', 200)[2]
  end
  for _, id in ipairs(found) do
    if #id > largest and redis.sha1hex(id) == entry.digest then
      return id
    end
  end
end

local function is_as_read(entry)
  if not entry.id or (redis.call('ZSCORE', INDEX, entry.id) or '') ~= entry.score then
    return false
  end
  local value = redis.call('HGET', DATA, entry.id)
  if entry.content == 'missing' then
    return not value
  elseif entry.content == 'large' then
    return value and #value == entry.size and string.sub(value, 1, #entry.value) == entry.value
  end
  return value == entry.value
end

local function delete_mail(entry)
  redis.call('ZREM', INDEX, entry.id)
  redis.call('HDEL', DATA, entry.id)
  redis.call('ZREM', ORPHANS, entry.id)
end

local admitted, unreadable, changed, orphaned, dropped, found_by_scan = 0, 0, 0, 0, 0, 0
local carry_out = {}

function carry_out.admit(entry)
  add_wish(entry.name, entry.wish, now)
  delete_mail(entry)
  admitted = admitted + 1
  if entry.source == 'scan' then
    found_by_scan = found_by_scan + 1
  end
end

function carry_out.refuse(entry)
  redis.call('HSET', OBJECTS, entry.name, entry.letter)
  redis.call('ZADD', UNREADABLE, num(now), entry.name)
  evict(UNREADABLE, most_letters)
  delete_mail(entry)
  unreadable = unreadable + 1
end

-- The class rides along in the fraction, which a double still holds exactly at these sizes.
function carry_out.set_aside(entry)
  redis.call('ZADD', ORPHANS, string.format('%.2f', now + entry.class * 0.25), entry.id)
  redis.call('ZREM', INDEX, entry.id)
  orphaned = orphaned + 1
end

function carry_out.drop(entry)
  dropped = dropped + redis.call('ZREM', ORPHANS, entry.id)
end

for _, entry in ipairs(entries) do
  if entry.digest ~= '' then
    entry.id = find_long_id(entry)
  end
  if is_as_read(entry) then
    carry_out[entry.action](entry)
  else
    changed = changed + 1
  end
end
if scan_to ~= scan_from then
  redis.call('SET', SCAN, scan_to)
end
return { admitted, unreadable, changed, orphaned, dropped, found_by_scan }
