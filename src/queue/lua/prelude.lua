-- Shared by the queue's scripts: put in front of each of them at build time. `record.rs` is the same rules in Rust.
--
-- One script is one state change. Each checks its arguments and the types of its keys before its first write, since
-- Redis does not take back what a script wrote before an error. Numbers are whole milliseconds and small counts: Lua
-- prints no more than 14 digits, so scores are always written with num().

local OBJECTS, READY = KEYS[1], KEYS[2]
local DELAYED = { [0] = KEYS[3], [1] = KEYS[4], [2] = KEYS[5], [3] = KEYS[6] }
local LEASED, DEAD, UNREADABLE = KEYS[7], KEYS[8], KEYS[9]
local ORPHANS, SCAN, COUNTERS = KEYS[10], KEYS[11], KEYS[12]
local HELD = KEYS[13]
local INDEX, DATA = KEYS[14], KEYS[15]

local CLASS_WIDTH = 1e13
local MAX_LAPSES = 5
local SUSPECT_LAPSES = 2

local function refuse(text)
  return redis.error_reply('QUEUE ' .. text)
end

-- What is in the counters and where the scan goes on may begin anew: another type or content of theirs must stop nobody. A
-- count of leases makes tokens, and goes on above everything that was counted.
local counters_mended = 0
local function mend_counters()
  -- Nothing is written where nothing is wrong: a full Redis refuses the first write of a script, and none after it.
  local scan, counters, mended = redis.call('TYPE', SCAN).ok, redis.call('TYPE', COUNTERS).ok, 0
  if scan ~= 'string' and scan ~= 'none' then
    counters_mended = counters_mended + redis.call('DEL', SCAN)
  end
  if counters ~= 'hash' and counters ~= 'none' then
    mended = redis.call('DEL', COUNTERS)
  elseif counters == 'hash' then
    for _, name in ipairs({ 'leases', 'dead_letters_evicted' }) do
      local count = redis.call('HGET', COUNTERS, name)
      if count and (#count > 15 or not string.match(count, '^%d+$')) then
        mended = mended + redis.call('HDEL', COUNTERS, name)
      end
    end
  end
  if mended > 0 then
    redis.call('HSETNX', COUNTERS, 'leases', redis.call('TIME')[1] .. '000')
    counters_mended = counters_mended + mended
  end
end

-- What each key holds.
local EXPECTED = {
  'hash', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'string', 'hash', 'zset', 'zset', 'hash',
}

-- The first key that holds something else than it should, as an error reply.
local function misused_key()
  mend_counters()
  for i = 1, #KEYS do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= 'none' and found ~= EXPECTED[i] then
      return refuse('key ' .. KEYS[i] .. ' holds a ' .. found .. ', expected a ' .. EXPECTED[i])
    end
  end
end

local bad_argument

-- A whole number that a double holds exactly.
local function whole(i)
  local number = tonumber(ARGV[i])
  if not number or number ~= math.floor(number) or math.abs(number) > 9007199254740992 then
    bad_argument = bad_argument or i
    return 0
  end
  return number
end

local function text(i)
  if not ARGV[i] then
    bad_argument = bad_argument or i
    return ''
  end
  return ARGV[i]
end

-- What is wrong with the keys or with the arguments read so far, as an error reply.
local function problem()
  if bad_argument then
    return refuse('argument ' .. bad_argument .. ' of ' .. #ARGV .. ' is missing or not a whole number')
  end
  return misused_key()
end

local function num(number)
  return string.format('%.0f', number)
end

-- At maxmemory Redis refuses the first write of a script when it could grow, and none after it. Where the work frees
-- memory in the end (leasing, settling, renewing, mail that is deleted in the same step), a write that only frees comes
-- first, so that a full Redis is drained instead of standing still.
local function begin_even_when_full()
  redis.call('ZREM', LEASED, '')
end

local LONGEST = 9007199254740992
local FORGOTTEN_LEASE_MS = 120000
local LONGEST_WAIT_MS = 86400000
-- The longest LEASE_SECONDS, and a margin.
local LONGEST_LEASE_MS = 3600000 + 120000

local function is_count(value, most)
  return type(value) == 'number' and value >= 0 and value <= most and value == math.floor(value)
end

local function is_time(value)
  return is_count(value, CLASS_WIDTH - 1)
end

local function is_wanted(wanted)
  return is_count(wanted.priority, 3) and is_time(wanted.first) and is_time(wanted.last) and is_time(wanted.due)
    and is_count(wanted.attempts, 4294967295)
end

local function is_text_or_nothing(value)
  return value == nil or type(value) == 'string'
end

local function is_count_or_nothing(value)
  return value == nil or is_count(value, 4294967295)
end

-- Whether a record has everything that its state needs, so that no script stumbles over it midway.
local function is_whole_record(record)
  if not (is_wanted(record) and is_time(record.hold) and is_count(record.lapses, 4294967295)
      and is_count(record.merges, LONGEST)) then
    return false
  elseif record.next ~= nil and not (type(record.next) == 'table' and is_wanted(record.next)) then
    return false
  elseif not (is_text_or_nothing(record.code) and is_text_or_nothing(record.reason) and is_text_or_nothing(record.body)) then
    return false
  elseif not (is_count_or_nothing(record.held) and is_text_or_nothing(record.held_for)
      and (record.received == nil or type(record.received) == 'boolean')) then
    return false
  elseif record.state == 'leased' then
    return type(record.token) == 'string' and is_time(record.expires)
  elseif record.state == 'dead' then
    return is_time(record.died)
  end
  return record.state == 'ready' or record.state == 'delayed'
end

-- The record of an object; nil when there is none, or nothing that could be one. Then also what is there instead.
local function load(name)
  local json = redis.call('HGET', OBJECTS, name)
  if not json then
    return nil
  end
  local ok, record = pcall(cjson.decode, json)
  if not ok or type(record) ~= 'table' or not is_whole_record(record) then
    return nil, json
  end
  return record
end

local function ready_at(record)
  return math.max(record.due, record.hold)
end

local function place(record, now)
  record.state = ready_at(record) <= now and 'ready' or 'delayed'
end

-- The set of the record's state, and its score there.
local function standing(record)
  if record.state == 'ready' then
    return READY, record.priority * CLASS_WIDTH + record.first
  elseif record.state == 'delayed' then
    return DELAYED[record.priority], ready_at(record)
  elseif record.state == 'leased' then
    return LEASED, record.expires
  end
  return DEAD, record.died
end

-- Keeps the list of those that wait because they were returned with a hold, so that they are found when its reason is gone.
-- Beyond so many they wait all the same, and are not listed. Answers whether something changed.
local MOST_HELD = 1000
local function list_hold(name, record)
  if not (record and record.state == 'delayed' and (record.held or 0) > 0) then
    return redis.call('ZREM', HELD, name) == 1
  elseif redis.call('ZCARD', HELD) < MOST_HELD or redis.call('ZSCORE', HELD, name) then
    return redis.call('ZADD', HELD, 'CH', num(record.hold), name) == 1
  end
  return false
end

local function is_delayed_set(set)
  return set == DELAYED[0] or set == DELAYED[1] or set == DELAYED[2] or set == DELAYED[3]
end

-- Writes a record and moves its name from the set `was` to that of its state.
local function put(name, record, was)
  redis.call('HSET', OBJECTS, name, cjson.encode(record))
  local set, score = standing(record)
  redis.call('ZADD', set, num(score), name)
  if was and was ~= set then
    redis.call('ZREM', was, name)
  end
  if is_delayed_set(set) or is_delayed_set(was) then
    list_hold(name, record)
  end
end

-- Frees an object that is held or set aside, since the reason is gone.
local function lift_hold(name, record, now)
  local was = standing(record)
  record.hold, record.held, record.held_for = 0, nil, nil
  place(record, now)
  put(name, record, was)
end

local function forget(name, set)
  redis.call('HDEL', OBJECTS, name)
  redis.call('ZREM', set, name)
  if is_delayed_set(set) then
    list_hold(name)
  end
end

-- Lets the oldest unreadable mail give way. Objects among the dead letters never do: they could still be served.
local function evict_letters(most)
  local excess = redis.call('ZCARD', UNREADABLE) - most
  if excess <= 0 then
    return
  end
  for _, name in ipairs(redis.call('ZRANGE', UNREADABLE, 0, excess - 1)) do
    forget(name, UNREADABLE)
  end
  redis.call('HINCRBY', COUNTERS, 'dead_letters_evicted', excess)
end

-- Best class, earliest place, latest asked, earliest due, highest count of attempts.
local function merge(wanted, request)
  wanted.priority = math.min(wanted.priority, request.priority)
  wanted.first = math.min(wanted.first, request.first)
  wanted.last = math.max(wanted.last, request.last)
  wanted.due = math.min(wanted.due, request.due)
  wanted.attempts = math.max(wanted.attempts, request.attempts)
end

local function fresh(request, attempts, merges, now)
  local record = {
    priority = request.priority, first = request.first, last = request.last, due = request.due,
    attempts = attempts, hold = 0, lapses = 0, merges = merges,
  }
  place(record, now)
  return record
end

-- What was brought in order by this script: records rebuilt, names that stood in no set or a wrong one, and what is no object
-- at all and was set aside as a dead letter.
local repaired = { 0, 0, 0 }

-- The sets an object can stand in.
local SETS = { READY, DELAYED[0], DELAYED[1], DELAYED[2], DELAYED[3], LEASED, DEAD }

-- Names that Rust reads as objects too: a kind and a tag that the tables can hold.
local function is_object(name)
  local kind, tag = string.match(name, '^(%l+):([0289PYLQGRJCUV]+)$')
  return (kind == 'clan' or kind == 'player' or kind == 'war') and #tag <= 15 and tag ~= '0'
end

-- Bytes as text: what is not plain ASCII is shown as \xNN.
local function printable(bytes)
  local text = string.gsub(bytes, '\\', '\\\\')
  return (string.gsub(text, '[^\32-\126]', function(byte)
    return string.format('\\x%02x', string.byte(byte))
  end))
end

-- Where a name stands: set to score.
local function places(name)
  local scores = {}
  for _, set in ipairs(SETS) do
    local score = redis.call('ZSCORE', set, name)
    if score then
      scores[set] = tonumber(score)
    end
  end
  return scores
end

local function is_letter(json)
  local ok, letter = pcall(cjson.decode, json or '')
  return ok and type(letter) == 'table' and letter.state == 'dead' and is_time(letter.died) and type(letter.code) == 'string'
    and type(letter.reason) == 'string' and type(letter.score) == 'string' and is_text_or_nothing(letter.value)
    and is_text_or_nothing(letter.body) and letter
end

-- Unreadable mail stands among the unreadable, and what is neither that nor an object becomes such a letter.
local function mend_letter(name, now)
  local json = redis.call('HGET', OBJECTS, name)
  local is_mail = string.sub(name, 1, 5) == 'mail:'
  local place = tonumber(redis.call('ZSCORE', UNREADABLE, name) or nil)
  local letter = is_mail and is_letter(json)
  if letter and place == letter.died and next(places(name)) == nil then
    return
  elseif not json and not place and next(places(name)) == nil then
    return
  end
  for _, set in ipairs(SETS) do
    redis.call('ZREM', set, name)
  end
  if letter then
    redis.call('ZADD', UNREADABLE, num(letter.died), name)
    repaired[2] = repaired[2] + 1
    return
  end
  letter = {
    state = 'dead', died = now, code = 'broken_record', score = '3',
    reason = json and 'what lay under this name could not be read' or 'nothing lay under this name any more',
    body = json and string.sub(printable(string.sub(json, 1, 500)), 1, 500) or nil,
  }
  local told = printable(string.sub(name, 1, 200))
  if #name > 200 then
    told = told .. '... (' .. #name .. ' bytes, ' .. string.sub(redis.sha1hex(name), 1, 16) .. ')'
  end
  forget(name, UNREADABLE)
  local renamed = is_mail and told or 'mail:' .. told
  redis.call('HSET', OBJECTS, renamed, cjson.encode(letter))
  redis.call('ZADD', UNREADABLE, num(now), renamed)
  repaired[3] = repaired[3] + 1
end

-- A record for an object of which only parts are left: what can be read of it is kept, and the rest is what has it refreshed
-- soon. A lease that may still be held by somebody is waited for.
local function rebuild(json, scores, now)
  local ok, old = pcall(cjson.decode, json or '')
  if not ok or type(old) ~= 'table' then
    old = {}
  end
  local class, first, hold = 3, now, is_time(old.hold) and old.hold or 0
  for number = 0, 3 do
    local score = scores[DELAYED[number]]
    if is_time(score) then
      class, hold = number, math.max(hold, score)
    end
  end
  if is_count(scores[READY], 4 * CLASS_WIDTH - 1) then
    class, first = math.floor(scores[READY] / CLASS_WIDTH), scores[READY] % CLASS_WIDTH
  end
  local record = {
    priority = is_count(old.priority, 3) and old.priority or class,
    first = is_time(old.first) and old.first or first,
    last = is_time(old.last) and old.last or now,
    due = is_time(old.due) and old.due or 0,
    hold = math.min(hold, now + LONGEST_WAIT_MS),
    attempts = is_count(old.attempts, 1000) and old.attempts or 0,
    lapses = is_count(old.lapses, 1000) and old.lapses or 0,
    merges = is_count(old.merges, LONGEST - 1) and old.merges + 1 or 1,
    code = type(old.code) == 'string' and old.code or nil,
    reason = type(old.reason) == 'string' and old.reason or nil,
    body = type(old.body) == 'string' and old.body or nil,
    held = is_count(old.held, 1000) and old.held or nil,
    held_for = type(old.held_for) == 'string' and old.held_for or nil,
  }
  if old.next ~= nil then
    record.next = { priority = record.priority, first = now, last = now, due = 0, attempts = 0 }
    if type(old.next) == 'table' and is_wanted(old.next) then
      record.next = old.next
    end
  end
  local only_dead = scores[DEAD] and not (scores[READY] or scores[LEASED])
  for number = 0, 3 do
    only_dead = only_dead and not scores[DELAYED[number]]
  end
  if old.state == 'leased' and type(old.token) == 'string' and is_time(old.expires) then
    record.state, record.token, record.expires = 'leased', old.token, old.expires
    record.received = old.received == true or nil
    return record
  elseif old.state == 'dead' or only_dead then
    record.state = 'dead'
    record.died = is_time(old.died) and old.died or is_time(scores[DEAD]) and scores[DEAD] or now
    record.code = record.code or 'broken_record'
    record.reason = record.reason or 'its record was lost or could not be read'
    record.next = nil
    return record
  elseif old.state == 'leased' or scores[LEASED] then
    local ends = is_time(old.expires) and old.expires or is_time(scores[LEASED]) and scores[LEASED]
    record.hold = math.max(record.hold, math.min(ends or now + FORGOTTEN_LEASE_MS, now + LONGEST_WAIT_MS))
  end
  if record.next then
    merge(record, record.next)
    record.next = nil
  end
  place(record, now)
  return record
end

-- No time of a record is later than a day from now, and no lease longer than the longest there is. What lies beyond was written
-- by hand or by a clock that was wrong, and would keep the object for years. Answers whether something did.
local function bring_near(record, now)
  local far = false
  local function limit(of, field, latest)
    if of[field] > latest then
      of[field], far = latest, true
    end
  end
  for _, wanted in ipairs({ record, record.next }) do
    limit(wanted, 'first', now + LONGEST_WAIT_MS)
    limit(wanted, 'last', now + LONGEST_WAIT_MS)
    limit(wanted, 'due', now + LONGEST_WAIT_MS)
  end
  limit(record, 'hold', now + LONGEST_WAIT_MS)
  if record.state == 'leased' then
    limit(record, 'expires', now + LONGEST_LEASE_MS)
  end
  return far
end

-- Brings one name in order: a whole record, standing in the set of its state with its score, and in no other.
local function mend(name, now)
  if not is_object(name) then
    if list_hold(name) then
      repaired[2] = repaired[2] + 1
    end
    mend_letter(name, now)
    return
  end
  local record, json = load(name)
  local scores, rebuilt = places(name), false
  if not record then
    if not json and next(scores) == nil then
      if list_hold(name) then
        repaired[2] = repaired[2] + 1
      end
      return
    end
    record = rebuild(json, scores, now)
    rebuilt = true
  end
  rebuilt = bring_near(record, now) or rebuilt
  if rebuilt then
    redis.call('HSET', OBJECTS, name, cjson.encode(record))
    repaired[1] = repaired[1] + 1
  end
  local right, score = standing(record)
  local moved = scores[right] ~= score
  if moved then
    redis.call('ZADD', right, num(score), name)
  end
  for set in pairs(scores) do
    if set ~= right then
      redis.call('ZREM', set, name)
      moved = true
    end
  end
  moved = list_hold(name, record) or moved
  if moved and not rebuilt then
    repaired[2] = repaired[2] + 1
  end
end

local function add_request(name, request, now)
  local record, json = load(name)
  if not record and (json or redis.call('ZSCORE', LEASED, name)) then
    -- Somebody may still hold it.
    mend(name, now)
    record = load(name)
  end
  if not record then
    put(name, fresh(request, request.attempts, 1, now))
    return
  end
  local was = standing(record)
  local merges = record.merges + 1
  if record.state == 'leased' then
    if record.next then
      merge(record.next, request)
    else
      record.next = request
    end
  elseif record.state ~= 'dead' then
    merge(record, request)
    place(record, now)
  elseif record.code == 'lapsed' then
    merge(record, request)
  else
    record = fresh(request, 0, merges, now)
  end
  record.merges = merges
  put(name, record, was)
end

local function bury(record, now, code, reason, body)
  record.state = 'dead'
  record.died = now
  record.code = code
  record.reason = reason
  record.body = body
  record.held = nil
  record.held_for = nil
end

-- Whether one more object can become a dead letter.
local function has_room(most_dead)
  return redis.call('ZCARD', DEAD) < most_dead
end

-- It would have become a dead letter, and there is no room: it waits, and nothing is counted.
local NO_ROOM_HOLD_MS = 600000
local function wait_for_room(record, now)
  record.hold = now + NO_ROOM_HOLD_MS
  record.held, record.held_for = nil, 'dead_letters_full'
  place(record, now)
end

-- Forgets the lease and merges what was requested meanwhile.
local function end_lease(record)
  record.token = nil
  record.expires = nil
  record.received = nil
  if record.next then
    merge(record, record.next)
    record.next = nil
  end
end
