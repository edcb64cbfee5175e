-- Merges a slice of mail into the queue and deletes it from the mailbox: each entry only when index and data are still as they
-- were read. A changed entry stays for the next slice. On a cluster the mailbox is not among the keys: `cluster.rs` compares
-- before this script and deletes after it.
-- ARGV: now, max dead entries, scan from, scan to, largest mail, number of entries; then for each entry source, id, id digest,
-- score, content, size, value, action, and the action's own arguments.
-- Returns {admitted, unreadable, changed, orphaned, orphans dropped, found by scan, repaired}.
local now, max_dead_entries = whole(1), whole(2)
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
    entry.request = {
      priority = whole(at + 1), first = whole(at + 2), last = whole(at + 2), due = whole(at + 3),
      attempts = whole(at + 4), asked = whole(at + 5),
    }
    if entry.request.asked < 0 then
      entry.request.asked = nil
    end
    at = at + 6
  elseif entry.action == 'refuse' then
    entry.name, entry.dead_entry = text(at), text(at + 1)
    at = at + 2
  elseif entry.action == 'orphan' then
    entry.class = whole(at)
    at = at + 1
  elseif entry.action == 'drop' then
    entry.timeout = whole(at)
    at = at + 1
  else
    bad_argument = bad_argument or at - 1
  end
  entries[i] = entry
end
local wrong = problem()
if wrong then
  return wrong
end

-- A request that goes into the queue leaves the mailbox. On a cluster it leaves another server, and a full one stays full.
if INDEX then
  begin_even_when_full()
end

local function find_long_id(entry)
  if entry.source == 'index' then
    return long_id_in_index(INDEX, entry.score, entry.digest, largest)
  end
  return long_id_in_data(DATA, scan_from, entry.digest, largest)
end

local function is_as_read(entry)
  if entry.digest ~= '' then
    entry.id = find_long_id(entry)
  end
  return entry.id and is_same_place(INDEX, entry.id, entry.score)
    and is_same_data(DATA, entry.id, entry.content, entry.size, entry.value)
end

local function delete_mail(entry)
  if INDEX then
    redis.call('ZREM', INDEX, entry.id)
    redis.call('HDEL', DATA, entry.id)
  end
  redis.call('ZREM', ORPHANS, entry.id)
end

local admitted, unreadable, changed, orphaned, dropped, found_by_scan = 0, 0, 0, 0, 0, 0
local carry_out = {}

function carry_out.admit(entry)
  add_request(entry.name, entry.request, now)
  delete_mail(entry)
  admitted = admitted + 1
  if entry.source == 'scan' then
    found_by_scan = found_by_scan + 1
  end
end

function carry_out.refuse(entry)
  redis.call('HSET', OBJECTS, entry.name, entry.dead_entry)
  redis.call('ZADD', DEAD_ENTRIES, num(now), entry.name)
  evict_dead_entries(max_dead_entries)
  delete_mail(entry)
  unreadable = unreadable + 1
end

-- The fraction of the score is the priority; a double still holds it exactly at these sizes.
function carry_out.orphan(entry)
  redis.call('ZADD', ORPHANS, string.format('%.2f', now + entry.class * 0.25), entry.id)
  if INDEX then
    redis.call('ZREM', INDEX, entry.id)
  end
  orphaned = orphaned + 1
end

-- Since it was read, it may have returned to the index and become an orphan anew.
function carry_out.drop(entry)
  local since = tonumber(redis.call('ZSCORE', ORPHANS, entry.id) or '')
  if since and math.floor(since) + entry.timeout <= now then
    dropped = dropped + redis.call('ZREM', ORPHANS, entry.id)
  end
end

for _, entry in ipairs(entries) do
  if not INDEX or is_as_read(entry) then
    carry_out[entry.action](entry)
  else
    changed = changed + 1
  end
end
if scan_to ~= scan_from then
  redis.call('SET', SCAN, scan_to)
end
return { admitted, unreadable, changed, orphaned, dropped, found_by_scan, repaired }
