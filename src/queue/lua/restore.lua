-- Merges entries of a backup or of another Redis into the queue. Nothing is overwritten by something older, and an entry with
-- nothing new in it changes nothing. `admin.rs` has the same rules in Rust.
-- ARGV: now, max dead letters; then for each entry kind (record, entry, orphan), name, JSON or score.
-- Returns for each 3 (no room among the dead letters), 2 (new), 1 (merged) or 0 (nothing new).
local now, max_dead = whole(1), whole(2)
local entries = {}
for at = 3, #ARGV, 3 do
  local entry = { kind = text(at), name = text(at + 1), text = text(at + 2) }
  if entry.kind == 'orphan' then
    if not tonumber(entry.text) then
      bad_argument = bad_argument or at + 2
    end
  else
    local ok, decoded = pcall(cjson.decode, entry.text)
    if not ok or type(decoded) ~= 'table' then
      bad_argument = bad_argument or at + 2
    end
    entry.new = decoded
  end
  entries[#entries + 1] = entry
end
local wrong = problem()
if wrong then
  return wrong
end

local function adds(wanted, request)
  return request.priority < wanted.priority or request.first < wanted.first or request.last > wanted.last
    or request.due < wanted.due or request.attempts > wanted.attempts
    or request.asked and (not wanted.asked or request.asked < wanted.asked)
end

local function wanted_of(record)
  return {
    priority = record.priority, first = record.first, last = record.last, due = record.due,
    attempts = record.attempts, asked = record.asked,
  }
end

local restore = {}

function restore.record(name, new)
  local old = load(name)
  -- A planned look may end without a response, and leaves nothing.
  local is_only_planned = old and old.planned and not old.next
  if (not old or is_only_planned) and new.state == 'dead' and not has_room(max_dead) then
    return 3
  elseif is_only_planned and new.state == 'dead' then
    put(name, new, LEASED)
    return 1
  elseif not old then
    put(name, new)
    return 2
  end
  if new.state == 'dead' then
    if old.state == 'dead' and new.died > old.died then
      put(name, new, DEAD)
      return 1
    end
    return 0
  end
  if (old.state == 'dead' or old.state == 'leased') and not old.planned and new.last <= old.last then
    return 0
  end
  if old.state == 'leased' and old.next and not adds(old.next, new) then
    return 0
  end
  if old.state == 'dead' and old.code ~= 'lapsed' then
    new.merges = old.merges + 1
    place(new, now)
    put(name, new, DEAD)
    return 1
  end
  if old.state == 'dead' or old.state == 'leased' then
    add_request(name, wanted_of(new), now)
    return 1
  end
  if not adds(old, new) and new.hold <= old.hold and new.lapses <= old.lapses then
    return 0
  end
  local was = set_and_score(old)
  merge(old, new)
  if new.hold > old.hold then
    old.hold, old.held, old.held_for = new.hold, new.held, new.held_for
  end
  old.lapses = math.max(old.lapses, new.lapses)
  old.merges = old.merges + 1
  place(old, now)
  put(name, old, was)
  return 1
end

function restore.entry(name, new, json)
  local died = tonumber(redis.call('ZSCORE', DEAD_ENTRIES, name) or -1)
  if died >= new.died then
    return 0
  end
  redis.call('HSET', OBJECTS, name, json)
  redis.call('ZADD', DEAD_ENTRIES, num(new.died), name)
  return died < 0 and 2 or 1
end

function restore.orphan(name, _, score)
  return redis.call('ZADD', ORPHANS, 'NX', score, name) == 1 and 2 or 0
end

local results = {}
for i, entry in ipairs(entries) do
  results[i] = restore[entry.kind](entry.name, entry.new, entry.text)
end
return results
