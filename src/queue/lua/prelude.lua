-- The rules that the queue's scripts share, put in front of each of them at build time. `record.rs` has the same rules in Rust.
-- KEYS: our 13 keys in the order below; on one server also the mailbox's index and data.
--
-- One script is one state change. Each checks its arguments and the types of its keys before its first write, since Redis does
-- not undo what a script wrote before an error. Numbers are whole milliseconds and small counts: Lua prints no more than 14
-- digits, so scores are always written with num().

local OBJECTS, READY = KEYS[1], KEYS[2]
local DELAYED = { [0] = KEYS[3], [1] = KEYS[4], [2] = KEYS[5], [3] = KEYS[6] }
local LEASED, DEAD, DEAD_ENTRIES = KEYS[7], KEYS[8], KEYS[9]
local ORPHANS, SCAN, COUNTERS = KEYS[10], KEYS[11], KEYS[12]
local HELD = KEYS[13]
local INDEX, DATA = KEYS[14], KEYS[15]

local CLASS_WIDTH = 1e13
local MAX_LAPSES = 5
local SUSPECT_LAPSES = 2

local function refuse(text)
  return redis.error_reply('QUEUE ' .. text)
end

-- Resets counters and the scan cursor when they hold another type or content, which must not stop a run. The count of leases
-- is a part of the tokens, so it continues above every earlier count: at the server's time in milliseconds.
local counters_repaired = 0
local function repair_counters()
  -- Write only where something is wrong: a full Redis refuses the first write of a script, and none after it.
  local scan, counters, reset = redis.call('TYPE', SCAN).ok, redis.call('TYPE', COUNTERS).ok, 0
  if scan ~= 'string' and scan ~= 'none' then
    counters_repaired = counters_repaired + redis.call('DEL', SCAN)
  end
  if counters ~= 'hash' and counters ~= 'none' then
    reset = redis.call('DEL', COUNTERS)
  elseif counters == 'hash' then
    for _, name in ipairs({ 'leases', 'dead_letters_evicted' }) do
      local count = redis.call('HGET', COUNTERS, name)
      if count and (#count > 15 or not string.match(count, '^%d+$')) then
        reset = reset + redis.call('HDEL', COUNTERS, name)
      end
    end
  end
  if reset > 0 then
    redis.call('HSETNX', COUNTERS, 'leases', redis.call('TIME')[1] .. '000')
    counters_repaired = counters_repaired + reset
  end
end

-- The type of each key.
local EXPECTED = {
  'hash', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'string', 'hash', 'zset', 'zset', 'hash',
}

-- Returns an error reply for the first key of another type.
local function misused_key()
  repair_counters()
  for i = 1, #KEYS do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= 'none' and found ~= EXPECTED[i] then
      return refuse('key ' .. KEYS[i] .. ' holds a ' .. found .. ', expected a ' .. EXPECTED[i])
    end
  end
end

local bad_argument

-- Reads an argument as a whole number that a double holds exactly.
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

-- Returns an error reply for a bad argument among those read so far, or for a key of another type.
local function problem()
  if bad_argument then
    return refuse('argument ' .. bad_argument .. ' of ' .. #ARGV .. ' is missing or not a whole number')
  end
  return misused_key()
end

local function num(number)
  return string.format('%.0f', number)
end

-- At maxmemory Redis refuses the first write of a script when it could grow, and none after it. Work that frees memory in the
-- end (leasing, settling, renewing, mail that is deleted in the same step) therefore begins with a write that only frees, so
-- that a full Redis is drained instead of standing still.
local function begin_even_when_full()
  redis.call('ZREM', LEASED, '')
end

-- 2^53: beyond it a double is not exact.
local MAX_EXACT = 9007199254740992
-- A lease whose end is unknown is waited for this long.
local FORGOTTEN_LEASE_MS = 120000
-- A day: no time in a record is later than this from now.
local MAX_WAIT_MS = 86400000
-- The longest LEASE_SECONDS, and a margin.
local MAX_LEASE_MS = 3600000 + 120000

local function is_count(value, most)
  return type(value) == 'number' and value >= 0 and value <= most and value == math.floor(value)
end

local function is_time(value)
  return is_count(value, CLASS_WIDTH - 1)
end

local function is_wanted(wanted)
  return is_count(wanted.priority, 3) and is_time(wanted.first) and is_time(wanted.last) and is_time(wanted.due)
    and is_count(wanted.attempts, 4294967295) and (wanted.asked == nil or is_time(wanted.asked))
end

local function is_text_or_nothing(value)
  return value == nil or type(value) == 'string'
end

local function is_count_or_nothing(value)
  return value == nil or is_count(value, 4294967295)
end

-- True when a record has everything that its state needs, so that no script fails over it midway.
local function is_whole_record(record)
  if not (is_wanted(record) and is_time(record.hold) and is_count(record.lapses, 4294967295)
      and is_count(record.merges, MAX_EXACT)) then
    return false
  elseif record.next ~= nil and not (type(record.next) == 'table' and is_wanted(record.next)) then
    return false
  elseif not (is_text_or_nothing(record.code) and is_text_or_nothing(record.reason) and is_text_or_nothing(record.body)) then
    return false
  elseif not (is_count_or_nothing(record.held) and is_text_or_nothing(record.held_for)
      and (record.received == nil or type(record.received) == 'boolean')) then
    return false
  elseif record.planned ~= nil and not (record.planned == true and record.state == 'leased') then
    return false
  elseif record.state == 'leased' then
    return type(record.token) == 'string' and is_time(record.expires)
  elseif record.state == 'dead' then
    return is_time(record.died)
  end
  return record.state == 'ready' or record.state == 'delayed'
end

-- Returns the record of an object; nil when there is none or it is broken, and then also the broken text.
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

-- Returns the set of the record's state, and its score there.
local function set_and_score(record)
  if record.state == 'ready' then
    return READY, record.priority * CLASS_WIDTH + record.first
  elseif record.state == 'delayed' then
    return DELAYED[record.priority], ready_at(record)
  elseif record.state == 'leased' then
    return LEASED, record.expires
  end
  return DEAD, record.died
end

-- Keeps the list of objects that were returned with a hold, so that they are found when the reason is gone. Beyond MAX_HELD they
-- wait all the same, and are not listed. Returns true when the list changed.
local MAX_HELD = 1000
local function list_hold(name, record)
  if not (record and record.state == 'delayed' and (record.held or 0) > 0) then
    return redis.call('ZREM', HELD, name) == 1
  elseif redis.call('ZCARD', HELD) < MAX_HELD or redis.call('ZSCORE', HELD, name) then
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
  local set, score = set_and_score(record)
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
  local was = set_and_score(record)
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

-- Evicts the oldest dead entries. Objects among the dead letters are never evicted: they could still be served.
local function evict_dead_entries(most)
  local excess = redis.call('ZCARD', DEAD_ENTRIES) - most
  if excess <= 0 then
    return
  end
  for _, name in ipairs(redis.call('ZRANGE', DEAD_ENTRIES, 0, excess - 1)) do
    forget(name, DEAD_ENTRIES)
  end
  redis.call('HINCRBY', COUNTERS, 'dead_letters_evicted', excess)
end

-- Keeps the best priority, first request, last request, earliest due time, highest count of attempts, and the first reader's
-- request.
local function merge(wanted, request)
  wanted.priority = math.min(wanted.priority, request.priority)
  wanted.first = math.min(wanted.first, request.first)
  wanted.last = math.max(wanted.last, request.last)
  wanted.due = math.min(wanted.due, request.due)
  wanted.attempts = math.max(wanted.attempts, request.attempts)
  if request.asked and (not wanted.asked or request.asked < wanted.asked) then
    wanted.asked = request.asked
  end
end

-- Merges the requests that came during a lease. A planned look stands for no request, so they take its place.
local function take_next(record)
  local next = record.next
  record.next = nil
  if next and record.planned then
    for _, field in ipairs({ 'priority', 'first', 'last', 'due', 'attempts', 'asked' }) do
      record[field] = next[field]
    end
  elseif next then
    merge(record, next)
  end
end

local function fresh(request, attempts, merges, now)
  local record = {
    priority = request.priority, first = request.first, last = request.last, due = request.due,
    attempts = attempts, asked = request.asked, hold = 0, lapses = 0, merges = merges,
  }
  place(record, now)
  return record
end

-- The repairs of this script: records rebuilt, names that stood in no set or a wrong one, and names that are not an object and
-- became dead entries.
local repaired = { 0, 0, 0 }

-- The sets an object can stand in.
local SETS = { READY, DELAYED[0], DELAYED[1], DELAYED[2], DELAYED[3], LEASED, DEAD }

-- True for a name that Rust reads as an object, too: a kind and a tag that the tables can hold.
local function is_object(name)
  local kind, tag = string.match(name, '^(%l+):([0289PYLQGRJCUV]+)$')
  return (kind == 'clan' or kind == 'player' or kind == 'war') and #tag <= 15 and tag ~= '0'
end

-- Returns bytes as text: whatever is not plain ASCII becomes \xNN.
local function printable(bytes)
  local text = string.gsub(bytes, '\\', '\\\\')
  return (string.gsub(text, '[^\32-\126]', function(byte)
    return string.format('\\x%02x', string.byte(byte))
  end))
end

-- Returns the sets in which a name stands, with its scores.
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

-- Returns the dead entry of a text; false for any other text.
local function read_dead_entry(json)
  local ok, entry = pcall(cjson.decode, json or '')
  return ok and type(entry) == 'table' and entry.state == 'dead' and is_time(entry.died) and type(entry.code) == 'string'
    and type(entry.reason) == 'string' and type(entry.score) == 'string' and is_text_or_nothing(entry.value)
    and is_text_or_nothing(entry.body) and entry
end

-- Repairs a name that is not an object: a dead entry stands among the dead entries, and anything else becomes one.
local function repair_dead_entry(name, now)
  local json = redis.call('HGET', OBJECTS, name)
  local is_mail = string.sub(name, 1, 5) == 'mail:'
  local place = tonumber(redis.call('ZSCORE', DEAD_ENTRIES, name) or nil)
  local entry = is_mail and read_dead_entry(json)
  if entry and place == entry.died and next(places(name)) == nil then
    return
  elseif not json and not place and next(places(name)) == nil then
    return
  end
  for _, set in ipairs(SETS) do
    redis.call('ZREM', set, name)
  end
  if entry then
    redis.call('ZADD', DEAD_ENTRIES, num(entry.died), name)
    repaired[2] = repaired[2] + 1
    return
  end
  entry = {
    state = 'dead', died = now, code = 'broken_record', score = '3',
    reason = json and 'what lay under this name could not be read' or 'nothing lay under this name any more',
    body = json and string.sub(printable(string.sub(json, 1, 500)), 1, 500) or nil,
  }
  local shown = printable(string.sub(name, 1, 200))
  if #name > 200 then
    shown = shown .. '... (' .. #name .. ' bytes, ' .. string.sub(redis.sha1hex(name), 1, 16) .. ')'
  end
  forget(name, DEAD_ENTRIES)
  local renamed = is_mail and shown or 'mail:' .. shown
  redis.call('HSET', OBJECTS, renamed, cjson.encode(entry))
  redis.call('ZADD', DEAD_ENTRIES, num(now), renamed)
  repaired[3] = repaired[3] + 1
end

-- Rebuilds a record of which only parts are left: it keeps what can be read, and the rest is chosen so that the object is
-- refreshed soon. It waits for a lease that a run may still hold.
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
    hold = math.min(hold, now + MAX_WAIT_MS),
    attempts = is_count(old.attempts, 1000) and old.attempts or 0,
    asked = is_time(old.asked) and old.asked or nil,
    lapses = is_count(old.lapses, 1000) and old.lapses or 0,
    merges = is_count(old.merges, MAX_EXACT - 1) and old.merges + 1 or 1,
    code = type(old.code) == 'string' and old.code or nil,
    reason = type(old.reason) == 'string' and old.reason or nil,
    body = type(old.body) == 'string' and old.body or nil,
    held = is_count(old.held, 1000) and old.held or nil,
    held_for = type(old.held_for) == 'string' and old.held_for or nil,
    planned = old.planned == true or nil,
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
    record.next, record.planned = nil, nil
    return record
  elseif old.state == 'leased' or scores[LEASED] then
    local ends = is_time(old.expires) and old.expires or is_time(scores[LEASED]) and scores[LEASED]
    record.hold = math.max(record.hold, math.min(ends or now + FORGOTTEN_LEASE_MS, now + MAX_WAIT_MS))
  end
  take_next(record)
  record.planned = nil
  place(record, now)
  return record
end

-- Limits the times of a record to a day from now, and its lease to the longest one. A later time was written by hand or by a
-- wrong clock, and would delay the object for years. Returns true when a time was changed.
local function limit_times(record, now)
  local far = false
  local function limit(of, field, latest)
    if of[field] > latest then
      of[field], far = latest, true
    end
  end
  for _, wanted in ipairs({ record, record.next }) do
    limit(wanted, 'first', now + MAX_WAIT_MS)
    limit(wanted, 'last', now + MAX_WAIT_MS)
    limit(wanted, 'due', now + MAX_WAIT_MS)
    if wanted.asked then
      limit(wanted, 'asked', now + MAX_WAIT_MS)
    end
  end
  limit(record, 'hold', now + MAX_WAIT_MS)
  if record.state == 'leased' then
    limit(record, 'expires', now + MAX_LEASE_MS)
  end
  return far
end

-- Repairs one name: a whole record, standing in the set of its state with its score, and in no other set.
local function repair(name, now)
  if not is_object(name) then
    if list_hold(name) then
      repaired[2] = repaired[2] + 1
    end
    repair_dead_entry(name, now)
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
  rebuilt = limit_times(record, now) or rebuilt
  if rebuilt then
    redis.call('HSET', OBJECTS, name, cjson.encode(record))
    repaired[1] = repaired[1] + 1
  end
  local right, score = set_and_score(record)
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
    -- A run may still hold its lease.
    repair(name, now)
    record = load(name)
  end
  if not record then
    put(name, fresh(request, request.attempts, 1, now))
    return
  end
  local was = set_and_score(record)
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

-- True when one more object can become a dead letter.
local function has_room(max_dead)
  return redis.call('ZCARD', DEAD) < max_dead
end

-- Holds an object that would have become a dead letter, since there is no room. Nothing is counted.
local NO_ROOM_HOLD_MS = 600000
local function wait_for_room(record, now)
  record.hold = now + NO_ROOM_HOLD_MS
  record.held, record.held_for = nil, 'dead_letters_full'
  place(record, now)
end

-- Forgets the lease and merges the requests that came meanwhile.
local function end_lease(record)
  record.token = nil
  record.expires = nil
  record.received = nil
  take_next(record)
  record.planned = nil
end

-- Ends a lease after which nothing of its request is left: the request that came meanwhile becomes the record.
local function end_record(name, record, attempts, now)
  if record.next then
    put(name, fresh(record.next, attempts, record.merges, now), LEASED)
  else
    forget(name, LEASED)
  end
end

-- Returns the token of a new lease.
local function new_token(run, nonce)
  return run .. ':' .. (nonce ~= '' and nonce .. '-' or '') .. num(redis.call('HINCRBY', COUNTERS, 'leases', 1))
end
