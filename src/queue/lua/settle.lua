-- Ends leases, and enqueues follow-ups. A lease whose token is no longer the record's is lost, and nothing changes. A planned look
-- leaves nothing, whatever its ending.
-- KEYS: ours, and one more that remembers the reply for a minute: a batch that is sent again, since its reply was lost, gets the
-- same reply and changes nothing.
-- ARGV: now, max dead letters, most ready, number of follow-ups, for each object, priority, requested at, due, attempts, spare;
-- then for each lease object, token, kind, until, code, reason, has body, body. `until` is unused for a held one.
-- Returns {for each lease 1 (settled), 0 (lease lost) or 2 (no room among the dead letters), follow-ups accepted}.
local REPLY, REPLY_MS = KEYS[14], 60000
EXPECTED[14] = 'string'

local KINDS = { done = true, later = true, failed = true, release = true, held = true, dead = true }
-- After these a request that came during the lease begins with no attempts.
local ANSWERED = { done = true, later = true, dead = true }
local FIRST_HOLD_MS, MAX_HOLD_MS = 30000, 600000

local now, max_dead, most_ready = whole(1), whole(2), whole(3)
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

local replied_at, codes, replied_accepted = string.match(redis.call('GET', REPLY) or '', '^(%d+);([012]+);(%d+)$')
if codes and #codes == #endings and now - tonumber(replied_at) <= REPLY_MS then
  local results = {}
  for i = 1, #codes do
    results[i] = tonumber(string.sub(codes, i, i))
  end
  return { results, tonumber(replied_accepted) }
end
begin_even_when_full()

local settle = {}

-- Ends the row of holds for one reason.
local function end_holds(record)
  record.held = nil
  record.held_for = nil
end

function settle.later(record, ending)
  record.due = ending.till
  -- The readers who asked have their answer.
  record.asked = nil
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
  record.hold = now + math.min(FIRST_HOLD_MS * 2 ^ math.min(record.held - 1, 10), MAX_HOLD_MS)
  record.code = ending.code
  record.reason = ending.reason
  place(record, now)
end

function settle.dead(record, ending)
  end_lease(record)
  if has_room(max_dead) then
    bury(record, now, ending.code, ending.reason, ending.body)
    return
  end
  record.code, record.reason = ending.code, ending.reason
  wait_for_room(record, now)
  return 2
end

local results = {}
for i, ending in ipairs(endings) do
  local record = load(ending.name)
  results[i] = 0
  if record and record.state == 'leased' and record.token == ending.token then
    results[i] = 1
    local is_over = record.planned or ending.kind == 'done' or ending.kind == 'dead' and record.next
    if is_over then
      end_record(ending.name, record, ANSWERED[ending.kind] and 0 or record.next and record.next.attempts, now)
    else
      results[i] = settle[ending.kind](record, ending) or 1
      put(ending.name, record, LEASED)
    end
  end
end

-- After the endings, so that a follow-up for the same object becomes its record.
local accepted = 0
for _, follow_up in ipairs(follow_ups) do
  local record, json = load(follow_up.name)
  local is_unwanted = record and record.state == 'dead'
  if follow_up.is_spare and not is_unwanted then
    is_unwanted = record or json or redis.call('ZSCORE', LEASED, follow_up.name)
      or redis.call('ZCARD', READY) >= most_ready
  end
  if not is_unwanted then
    add_request(follow_up.name, follow_up.request, now)
    accepted = accepted + 1
  end
end
local digits = table.concat(results)
if string.find(digits, '[12]') then
  redis.call('SET', REPLY, num(now) .. ';' .. digits .. ';' .. accepted, 'PX', 2 * REPLY_MS)
end
return { results, accepted }
