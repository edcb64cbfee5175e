-- Ends leases, and puts in what follows from the answers. A token that is no longer the record's is stale, and touches
-- nothing.
-- The last key remembers the answer for a minute: a batch that is sent again, since its answer was lost, is told the same
-- and changes nothing.
-- ARGV: now, most dead letters, most ready, number of follow-ups, of each: object, priority, asked, due, attempts, spare;
-- then of each lease: object, token, kind, until, code, reason, has body, body. `until` of one that is held is unused.
-- Answers {1 (settled), 0 (stale) or 2 (no room among the dead letters) for each lease, follow-ups taken in}.
local ANSWERED, ANSWERED_MS = KEYS[14], 60000
EXPECTED[14] = 'string'

local KINDS = { done = true, later = true, failed = true, release = true, held = true, dead = true }
local FIRST_HOLD_MS, LONGEST_HOLD_MS = 30000, 600000

local now, most_dead, most_ready = whole(1), whole(2), whole(3)
local first_ending = 5 + 6 * whole(4)
local follow_ups = {}
for at = 5, first_ending - 1, 6 do
  follow_ups[#follow_ups + 1] = {
    name = text(at), is_spare = whole(at + 5) == 1,
    request = {
      priority = whole(at + 1), first = whole(at + 2), last = whole(at + 2), due = whole(at + 3),
      attempts = whole(at + 4),
    },
  }
end
local endings = {}
for at = first_ending, #ARGV, 8 do
  local ending = {
    name = text(at), token = text(at + 1), kind = text(at + 2), till = whole(at + 3), code = text(at + 4),
    reason = text(at + 5), body = text(at + 7),
  }
  if whole(at + 6) == 0 then
    ending.body = nil
  end
  if not KINDS[ending.kind] then
    bad_argument = bad_argument or at + 2
  end
  endings[#endings + 1] = ending
end
local wrong = problem()
if wrong then
  return wrong
end

local told_at, told, told_taken = string.match(redis.call('GET', ANSWERED) or '', '^(%d+);([012]+);(%d+)$')
if told and #told == #endings and now - tonumber(told_at) <= ANSWERED_MS then
  local answers = {}
  for i = 1, #told do
    answers[i] = tonumber(string.sub(told, i, i))
  end
  return { answers, tonumber(told_taken) }
end
begin_even_when_full()

local settle = {}

-- The row of holds for one reason is over.
local function end_holds(record)
  record.held = nil
  record.held_for = nil
end

function settle.later(record, ending)
  record.due = ending.till
  end_lease(record)
  record.hold = 0
  record.attempts = 0
  record.lapses = 0
  end_holds(record)
  place(record, now)
end

function settle.failed(record, ending)
  record.attempts = record.attempts + 1
  end_lease(record)
  record.hold = ending.till
  record.lapses = 0
  record.code = ending.code
  record.reason = ending.reason
  end_holds(record)
  place(record, now)
end

function settle.release(record)
  end_lease(record)
  place(record, now)
end

-- Every further time in a row for the same reason doubles the hold.
function settle.held(record, ending)
  end_lease(record)
  record.held = record.held_for == ending.code and (record.held or 0) + 1 or 1
  record.held_for = ending.code
  record.hold = now + math.min(FIRST_HOLD_MS * 2 ^ math.min(record.held - 1, 10), LONGEST_HOLD_MS)
  record.code = ending.code
  record.reason = ending.reason
  place(record, now)
end

function settle.dead(record, ending)
  end_lease(record)
  if has_room(most_dead) then
    bury(record, now, ending.code, ending.reason, ending.body)
    return
  end
  record.code, record.reason = ending.code, ending.reason
  wait_for_room(record, now)
  return 2
end

local answers = {}
for i, ending in ipairs(endings) do
  local record = load(ending.name)
  answers[i] = 0
  if record and record.state == 'leased' and record.token == ending.token then
    answers[i] = 1
    if (ending.kind == 'done' or ending.kind == 'dead') and record.next then
      -- What was requested meanwhile becomes the record.
      put(ending.name, fresh(record.next, 0, record.merges, now), LEASED)
    elseif ending.kind == 'done' then
      forget(ending.name, LEASED)
    else
      answers[i] = settle[ending.kind](record, ending) or 1
      put(ending.name, record, LEASED)
    end
  end
end

-- After the endings, so that what follows from an answer for the same object becomes its record.
local taken = 0
for _, follow_up in ipairs(follow_ups) do
  local record, json = load(follow_up.name)
  local is_unwanted = record and record.state == 'dead'
  if follow_up.is_spare and not is_unwanted then
    is_unwanted = record or json or redis.call('ZSCORE', LEASED, follow_up.name)
      or redis.call('ZCARD', READY) >= most_ready
  end
  if not is_unwanted then
    add_request(follow_up.name, follow_up.request, now)
    taken = taken + 1
  end
end
local digits = table.concat(answers)
if string.find(digits, '[12]') then
  redis.call('SET', ANSWERED, num(now) .. ';' .. digits .. ';' .. taken, 'PX', 2 * ANSWERED_MS)
end
return { answers, taken }
