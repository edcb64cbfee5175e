-- Takes back leases that ran out, moves what is due to ready, and leases the next objects in order.
-- ARGV: now, expiry of the new leases, at most, classes (such as 0123), alone (0 or 1), draw, run, most dead letters,
-- sweep; then the objects that come before all others when they are ready.
-- Answers {suspect waits, more, lapsed, lapsed dead, leases, repaired}; a lease is {object, token, merges, priority, first, last,
-- attempts, lapses}.
local SUSPECT_LAPSES = 2
-- How many suspects of so many lapses may be leased together; of more lapses each is leased alone.
local SUSPECTS_TOGETHER = { [2] = 16, [3] = 4 }

local now, expires, most, classes, alone = whole(1), whole(2), whole(3), text(4), whole(5) == 1
local draw, run, most_dead, sweep = whole(6), text(7), whole(8), whole(9)
local wrong = problem()
if wrong then
  return wrong
end
begin_even_when_full()

local more, lapsed, lapsed_dead = 0, 0, 0

-- Members of a time-ordered set whose time has come.
local function due_members(set)
  local names = redis.call('ZRANGEBYSCORE', set, '-inf', num(now), 'LIMIT', 0, sweep)
  if #names == sweep then
    more = 1
  end
  return names
end

local function lapse(name, record)
  end_lease(record)
  record.lapses = record.lapses + 1
  lapsed = lapsed + 1
  if record.lapses >= MAX_LAPSES then
    bury(record, now, 'lapsed', num(record.lapses) .. ' leases in a row ran out unsettled')
    lapsed_dead = lapsed_dead + 1
  else
    place(record, now)
  end
  put(name, record, LEASED)
end

for _, name in ipairs(due_members(LEASED)) do
  local record = load(name)
  if record and record.state == 'leased' and record.expires <= now then
    lapse(name, record)
  else
    mend(name, now)
  end
end
evict(DEAD, most_dead)

for class = 0, 3 do
  for _, name in ipairs(due_members(DELAYED[class])) do
    local record = load(name)
    if record and record.state == 'delayed' and record.priority == class and ready_at(record) <= now then
      place(record, now)
      put(name, record, DELAYED[class])
    else
      mend(name, now)
    end
  end
end

local wanted, all = {}, true
for class = 0, 3 do
  wanted[class] = string.find(classes, num(class), 1, true) ~= nil
  all = all and wanted[class]
end

local function oldest(class)
  local from, to = num(class * CLASS_WIDTH), '(' .. num((class + 1) * CLASS_WIDTH)
  return redis.call('ZRANGEBYSCORE', READY, from, to, 'LIMIT', 0, 1)[1]
end

local function next_in_order()
  if all then
    return redis.call('ZRANGE', READY, 0, 0)[1]
  end
  for class = 0, 3 do
    local name = wanted[class] and oldest(class)
    if name then
      return name
    end
  end
end

-- Below 5 % a place is for the oldest LOW, below 10 % for MEDIUM, below 20 % for HIGH, when such wait.
local function favoured()
  draw = (draw * 16807) % 2147483647
  local percent = draw % 100
  if percent < 5 then
    return 3
  elseif percent < 10 then
    return 2
  elseif percent < 20 then
    return 1
  end
end

local repairs = 0

-- The next candidate with its record. A record rules: an index that says otherwise is mended on the way, and an entry whose
-- record is gone or broken is turned into a record again.
local function candidate(class)
  while repairs < 1000 do
    local name = (class and wanted[class] and oldest(class)) or next_in_order()
    if not name then
      return nil
    end
    local record = load(name)
    if record and record.state == 'ready' and is_object(name) then
      return name, record
    end
    mend(name, now)
    repairs = repairs + 1
  end
  more = 1
end

-- The next of the objects that were named; a suspect among them waits for its turn like all others.
local named = 10
local function next_named()
  while ARGV[named] do
    local name = ARGV[named]
    named = named + 1
    local record = load(name)
    if record and record.state == 'ready' and record.lapses < SUSPECT_LAPSES then
      return name, record
    end
  end
end

local leases, suspect_waits, group = {}, 0, nil
while #leases < most do
  local name, record
  if not group then
    name, record = next_named()
  end
  if not name then
    name, record = candidate(not group and favoured() or nil)
  end
  if not name or (group and record.lapses ~= group) then
    break
  end
  local suspect = record.lapses >= SUSPECT_LAPSES
  if suspect and not (alone and (group or #leases == 0)) then
    suspect_waits = 1
    break
  end
  record.state = 'leased'
  record.token = run .. ':' .. num(redis.call('HINCRBY', COUNTERS, 'leases', 1))
  record.expires = expires
  put(name, record, READY)
  leases[#leases + 1] = {
    name, record.token, record.merges, record.priority, record.first, record.last, record.attempts, record.lapses,
  }
  if suspect then
    group = record.lapses
    if #leases >= (SUSPECTS_TOGETHER[group] or 1) then
      break
    end
  end
end
if #leases == most and next_in_order() then
  more = 1
end
return { suspect_waits, more, lapsed, lapsed_dead, leases, repaired }
