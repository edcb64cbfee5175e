-- Takes back leases that ran out, moves what is due to ready, and leases the next objects in order.
-- ARGV: now, expiry of the new leases, max leases, priorities (such as 0123), alone (0 or 1), draw, run, max dead letters, max
-- swept, probe (0 or 1), nonce of this call, number of calls whose reply was lost, the nonce of each, number of kinds that are
-- set aside, for each kind, until, probes; then the objects that come before all others when they are ready.
-- Returns {suspect waits, more, lapsed, lapsed dead, leases, repaired}; a lease is {object, token, merges, priority, first, last,
-- attempts, lapses, held, held for, asked}; -1 stands for no time.

-- The suspects that may be leased together, by their lapses; with more lapses each is leased alone.
local SUSPECTS_TOGETHER = { [2] = 16, [3] = 4 }
-- The leases that are searched for those whose reply was lost.
local MAX_LEASES_SEARCHED = 5000
-- One call sets aside at most this many objects.
local MAX_SET_ASIDE = 1000

local now, expires, most, classes, alone = whole(1), whole(2), whole(3), text(4), whole(5) == 1
local draw, run, max_dead, sweep, probe = whole(6), text(7), whole(8), whole(9), whole(10) == 1
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

-- Returns members of a time-ordered set whose time has come.
local function due_members(set)
  local names = redis.call('ZRANGEBYSCORE', set, '-inf', num(now), 'LIMIT', 0, sweep)
  if #names == sweep then
    more = 1
  end
  return names
end

-- Releases the leases of this run's calls whose replies were lost. No run has them, so there is nothing to wait for, and no
-- lapse.
local function is_lost(token)
  for _, prefix in ipairs(lost) do
    if string.sub(token, 1, #prefix) == prefix then
      return true
    end
  end
end
if #lost > 0 then
  for _, name in ipairs(redis.call('ZRANGE', LEASED, 0, MAX_LEASES_SEARCHED - 1)) do
    local record = load(name)
    if record and record.state == 'leased' and is_lost(record.token) and record.planned then
      end_record(name, record, record.next and record.next.attempts, now)
    elseif record and record.state == 'leased' and is_lost(record.token) then
      end_lease(record)
      place(record, now)
      put(name, record, LEASED)
    end
  end
end

-- A run confirms by a renewal that it received the lease. Lapses without it may make a suspect, which a run confirms before it
-- tries it, but never bury an object that no worker ever saw.
local function lapse(name, record)
  local is_counted = record.received or record.lapses < SUSPECT_LAPSES
  end_lease(record)
  lapsed = lapsed + 1
  if not is_counted then
    place(record, now)
    put(name, record, LEASED)
    return
  end
  if record.lapses + 1 >= MAX_LAPSES and not has_room(max_dead) then
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
    repair(name, now)
  end
end
for class = 0, 3 do
  for _, name in ipairs(due_members(DELAYED[class])) do
    local record = load(name)
    if record and record.state == 'delayed' and record.priority == class and ready_at(record) <= now then
      place(record, now)
      put(name, record, DELAYED[class])
    else
      repair(name, now)
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

-- Draws the priority whose oldest object comes next: LOW in 5 % of the draws, MEDIUM in 5 %, HIGH in 10 %. nil keeps the strict
-- order.
local function favoured()
  -- The products stay below 2^53, which a Lua number holds exactly; `Draw` in Rust computes the same.
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

-- Returns the next candidate with its record. The record overrules the sets: a wrong place is repaired on the way, and a name
-- whose record is missing or broken gets a record again.
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
    repair(name, now)
    repairs = repairs + 1
  end
  more = 1
end

-- Returns the next of the named objects; a suspect among them waits for its turn like all others.
local function next_named()
  while ARGV[named] do
    local name = ARGV[named]
    named = named + 1
    local record = load(name)
    -- A named object does not wait for the end of a hold without a failure.
    local is_held = record and record.state == 'delayed' and (record.held or 0) > 0 and record.due <= now
    if record and (record.state == 'ready' or is_held) and record.lapses < SUSPECT_LAPSES then
      return name, record
    end
  end
end

local leases, suspect_waits, set_aside, group = {}, 0, 0, nil

-- Returns the entry of an object's kind among those that are set aside; nil when the object is leased like any other.
local function aside_of(name)
  local kind = aside[string.match(name, '^%l+')]
  return kind and kind.till > now and kind or nil
end

-- Delays an object whose endpoint fails. Nothing is counted, since nothing was tried.
local function put_aside(name, record, till)
  local was = set_and_score(record)
  record.hold = math.max(record.hold, till)
  -- A row of holds of its own goes on: this object failed, and comes behind those that did not.
  if (record.held or 0) == 0 then
    record.held, record.held_for = nil, 'circuit'
  end
  place(record, now)
  put(name, record, was)
  set_aside = set_aside + 1
end

local function grant(name, record, kind)
  if kind then
    kind.probes = kind.probes - 1
  end
  local was = set_and_score(record)
  record.state = 'leased'
  record.token = new_token(run, nonce)
  record.expires = expires
  put(name, record, was)
  leases[#leases + 1] = {
    name, record.token, record.merges, record.priority, record.first, record.last, record.attempts, record.lapses,
    record.held or 0, record.held_for or '', record.asked or -1,
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
    grant(name, record, kind)
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
      repair(name, now)
    elseif wanted[record.priority] and record.due <= now and not (kind and kind.probes <= 0) then
      if record.lapses >= SUSPECT_LAPSES and not alone then
        suspect_waits = 1
      else
        grant(name, record, kind)
      end
      break
    end
  end
end
if #leases == most and next_in_order() then
  more = 1
end
return { suspect_waits, more, lapsed, lapsed_dead, leases, repaired }
