-- Shared by the queue's scripts: put in front of each of them at build time. `record.rs` is the same rules in Rust.
--
-- One script is one state change. Each checks its arguments and the types of its keys before its first write, since
-- Redis does not take back what a script wrote before an error. Numbers are whole milliseconds and small counts: Lua
-- prints no more than 14 digits, so scores are always written with num().

local OBJECTS, READY = KEYS[1], KEYS[2]
local DELAYED = { [0] = KEYS[3], [1] = KEYS[4], [2] = KEYS[5], [3] = KEYS[6] }
local LEASED, DEAD, UNREADABLE = KEYS[7], KEYS[8], KEYS[9]
local ORPHANS, SCAN, COUNTERS = KEYS[10], KEYS[11], KEYS[12]
local INDEX, DATA = KEYS[13], KEYS[14]

local CLASS_WIDTH = 1e13
local MAX_LAPSES = 5

local function refuse(text)
  return redis.error_reply('QUEUE ' .. text)
end

-- The first key that holds something else than it should, as an error reply.
local function misused_key()
  local expected = {
    'hash', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'string', 'hash', 'zset', 'hash',
  }
  for i = 1, #KEYS do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= 'none' and found ~= expected[i] then
      return refuse('key ' .. KEYS[i] .. ' holds a ' .. found .. ', expected a ' .. expected[i])
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
-- memory in the end (leasing, settling, renewing), a write that only frees comes first, so that a full Redis is
-- drained instead of standing still.
local function begin_even_when_full()
  redis.call('ZREM', LEASED, '')
end

-- The record of an object; nil when there is none, or nothing that could be one.
local function load(name)
  local json = redis.call('HGET', OBJECTS, name)
  if not json then
    return nil
  end
  local ok, record = pcall(cjson.decode, json)
  if not ok or type(record) ~= 'table' or type(record.state) ~= 'string' then
    return nil
  end
  for _, field in ipairs({ 'priority', 'first', 'last', 'due', 'hold', 'attempts', 'lapses', 'merges' }) do
    if type(record[field]) ~= 'number' then
      return nil
    end
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

-- Writes a record and moves its name from the set `was` to that of its state.
local function put(name, record, was)
  redis.call('HSET', OBJECTS, name, cjson.encode(record))
  local set, score = standing(record)
  redis.call('ZADD', set, num(score), name)
  if was and was ~= set then
    redis.call('ZREM', was, name)
  end
end

local function forget(name, set)
  redis.call('HDEL', OBJECTS, name)
  redis.call('ZREM', set, name)
end

-- Lets the oldest of a set of dead letters give way.
local function evict(set, most)
  local excess = redis.call('ZCARD', set) - most
  if excess <= 0 then
    return
  end
  for _, name in ipairs(redis.call('ZRANGE', set, 0, excess - 1)) do
    forget(name, set)
  end
  redis.call('HINCRBY', COUNTERS, 'dead_letters_evicted', excess)
end

-- Best class, earliest place, latest asked, earliest due, highest count of attempts.
local function merge(wanted, wish)
  wanted.priority = math.min(wanted.priority, wish.priority)
  wanted.first = math.min(wanted.first, wish.first)
  wanted.last = math.max(wanted.last, wish.last)
  wanted.due = math.min(wanted.due, wish.due)
  wanted.attempts = math.max(wanted.attempts, wish.attempts)
end

local function fresh(wish, attempts, merges, now)
  local record = {
    priority = wish.priority, first = wish.first, last = wish.last, due = wish.due,
    attempts = attempts, hold = 0, lapses = 0, merges = merges,
  }
  place(record, now)
  return record
end

local function add_wish(name, wish, now)
  local record = load(name)
  if not record then
    put(name, fresh(wish, wish.attempts, 1, now))
    return
  end
  local was = standing(record)
  local merges = record.merges + 1
  if record.state == 'leased' then
    if record.next then
      merge(record.next, wish)
    else
      record.next = wish
    end
  elseif record.state ~= 'dead' then
    merge(record, wish)
    place(record, now)
  elseif record.code == 'lapsed' then
    merge(record, wish)
  else
    record = fresh(wish, 0, merges, now)
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
end

-- Forgets the lease and merges what was wished for meanwhile.
local function end_lease(record)
  record.token = nil
  record.expires = nil
  if record.next then
    merge(record, record.next)
    record.next = nil
  end
end
