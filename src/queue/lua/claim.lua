-- Claims objects for planned looks: makes a leased record for each that has none. Claims nothing while a request is ready or due,
-- since a planned look never stands before a request. It needs memory, so a full Redis refuses it.
-- ARGV: now, expiry of the leases, run, nonce of this call; then the objects.
-- Returns {1 when a request waits, claims, refusals, repaired}; a claim is {object, token}, a refusal {object, state of its record}.
local now, expires, run, nonce = whole(1), whole(2), text(3), text(4)
local wrong = problem()
if wrong then
  return wrong
end

local function has_due(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', num(now), 'LIMIT', 0, 1)[1] ~= nil
end

-- A lease that ran out and a delay that is over count, too: the next lease call makes them ready.
local work_waits = redis.call('ZCARD', READY) > 0 or has_due(LEASED)
for class = 0, 3 do
  work_waits = work_waits or has_due(DELAYED[class])
end
if work_waits then
  return { 1, {}, {}, repaired }
end

local claims, refusals = {}, {}
for at = 5, #ARGV do
  local name = ARGV[at]
  local record, json = load(name)
  if not record and (json or redis.call('ZSCORE', LEASED, name)) then
    -- A run may still hold its lease.
    repair(name, now)
    record = load(name)
  end
  if record then
    refusals[#refusals + 1] = { name, record.state }
  else
    record = fresh({ priority = 3, first = now, last = now, due = now }, 0, 0, now)
    record.state, record.planned = 'leased', true
    record.token, record.expires = new_token(run, nonce), expires
    put(name, record)
    claims[#claims + 1] = { name, record.token }
  end
end
return { 0, claims, refusals, repaired }
