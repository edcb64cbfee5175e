-- Takes back leases that ran out, moves what is due to ready, and leases the next objects in order.
-- ARGV: now, expiry of the new leases, at most, classes (such as 0123), alone (0 or 1), draw, run, most dead letters,
-- sweep, probe (0 or 1), nonce of this call, number of calls whose answer was lost, the nonce of each, number of kinds that are
-- set aside, of each: kind, until, probes; then the objects that come before
-- all others when they are ready.
-- Answers {suspect waits, more, lapsed, lapsed dead, leases, repaired}; a lease is {object, token, merges, priority, first, last,
-- attempts, lapses, held, held for}.
-- How many suspects of so many lapses may be leased together; of more lapses each is leased alone.
local SUSPECTS_TOGETHER = { [2] = 16, [3] = 4 }
-- The most leases that are looked at for those whose answer was lost.
local MOST_LEASES = 5000
-- The most objects that one call sets aside.
local MAX_SET_ASIDE = 1000

local now, expires, most, classes, alone = whole(1), whole(2), whole(3), text(4), whole(5) == 1
local draw, run, most_dead, sweep, probe = whole(6), text(7), whole(8), whole(9), whole(10) == 1
local nonce, lost, at_aside = text(11), {}, 13 + whole(12)
for at = 13, at_aside - 1 do
  lost[#lost + 1] = run .. ':' .. text(at) .. '-'
end
local aside, named = {}, at_aside + 1 + 3 * whole(at_aside)
for at = at_aside + 1, named - 1, 3 do
  aside[text(at)] = { till = whole(at + 1), probes = whole(at + 2) }
end
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

-- Gives back what calls of this run leased and never heard of. Nobody has it: there is nothing to wait for, and no lapse.
local function is_lost(token)
  for _, prefix in ipairs(lost) do
    if string.sub(token, 1, #prefix) == prefix then
      return true
    end
  end
end
if #lost > 0 then
  for _, name in ipairs(redis.call('ZRANGE', LEASED, 0, MOST_LEASES - 1)) do
    local record = load(name)
    if record and record.state == 'leased' and is_lost(record.token) then
      end_lease(record)
      place(record, now)
      put(name, record, LEASED)
    end
  end
end

-- Whether a run received the lease is known when it renewed it. Other lapses may make a suspect, which is confirmed before it
-- is tried; they never bury what no worker ever saw.
local function lapse(name, record)
  local is_counted = record.received or record.lapses < SUSPECT_LAPSES
  end_lease(record)
  lapsed = lapsed + 1
  if not is_counted then
    place(record, now)
    put(name, record, LEASED)
    return
  end
  if record.lapses + 1 >= MAX_LAPSES and not has_room(most_dead) then
    wait_for_room(record, now)
    put(name, record, LEASED)
    return
  end
  record.lapses = record.lapses + 1
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
local function next_named()
  while ARGV[named] do
    local name = ARGV[named]
    named = named + 1
    local record = load(name)
    -- Whoever names an object does not wait for the end of a hold that nobody counts.
    local is_held = record and record.state == 'delayed' and (record.held or 0) > 0 and record.due <= now
    if record and (record.state == 'ready' or is_held) and record.lapses < SUSPECT_LAPSES then
      return name, record
    end
  end
end

local leases, suspect_waits, set_aside, group = {}, 0, 0, nil

-- What is set aside of an object's kind; nil when it is handed out like any other.
local function aside_of(name)
  local kind = aside[string.match(name, '^%l+')]
  return kind and kind.till > now and kind or nil
end

-- Delays an object whose endpoint fails. It is not counted: nothing was tried.
local function put_aside(name, record, till)
  local was = standing(record)
  record.hold = math.max(record.hold, till)
  -- A row of holds of its own goes on: it comes behind those that did not fail.
  if (record.held or 0) == 0 then
    record.held, record.held_for = nil, 'circuit'
  end
  place(record, now)
  put(name, record, was)
  set_aside = set_aside + 1
end

local function hand_out(name, record, kind)
  if kind then
    kind.probes = kind.probes - 1
  end
  local was = standing(record)
  record.state = 'leased'
  record.token = run .. ':' .. (nonce ~= '' and nonce .. '-' or '') .. num(redis.call('HINCRBY', COUNTERS, 'leases', 1))
  record.expires = expires
  put(name, record, was)
  leases[#leases + 1] = {
    name, record.token, record.merges, record.priority, record.first, record.last, record.attempts, record.lapses,
    record.held or 0, record.held_for or '',
  }
end

local nothing_ready = false
while #leases < most do
  if set_aside == MAX_SET_ASIDE then
    more = 1
    break
  end
  local name, record
  if not group then
    name, record = next_named()
  end
  if not name then
    name, record = candidate(not group and favoured() or nil)
  end
  if not name then
    nothing_ready = repairs < 1000
    break
  end
  if group and record.lapses ~= group then
    break
  end
  local kind = aside_of(name)
  if kind and kind.probes <= 0 then
    put_aside(name, record, kind.till)
  else
    local suspect = record.lapses >= SUSPECT_LAPSES
    if suspect and not (alone and (group or #leases == 0)) then
      suspect_waits = 1
      break
    end
    hand_out(name, record, kind)
    if suspect then
      group = record.lapses
      if #leases >= (SUSPECTS_TOGETHER[group] or 1) then
        break
      end
    end
  end
end
if probe and nothing_ready and #leases == 0 then
  for _, name in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
    local record, kind = load(name), aside_of(name)
    if not record or record.state ~= 'delayed' or not record.held then
      mend(name, now)
    elseif wanted[record.priority] and record.due <= now and not (kind and kind.probes <= 0) then
      if record.lapses >= SUSPECT_LAPSES and not alone then
        suspect_waits = 1
      else
        hand_out(name, record, kind)
      end
      break
    end
  end
end
if #leases == most and next_in_order() then
  more = 1
end
return { suspect_waits, more, lapsed, lapsed_dead, leases, repaired }
