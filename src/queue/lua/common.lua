-- Shared by the scripts that do not use the queue's own keys: key slots, circuits, the mailbox on a cluster. Put in front of each
-- of them at build time.

local function refuse(text)
  return redis.error_reply('QUEUE ' .. text)
end

local function misused(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    return refuse('key ' .. key .. ' holds a ' .. found .. ', expected a ' .. expected)
  end
end

-- At maxmemory Redis refuses the first write of a script when it could grow, and none after it. The state that a run needs to
-- drain a full Redis is small and soon ends, so a write that only frees comes first.
local function put(key, value, life)
  redis.call('DEL', key)
  redis.call('SET', key, value, 'PX', life)
end

-- The same for a hash.
local function begin_even_when_full(key)
  redis.call('HDEL', key, '')
end

-- Returns the learned rate of a key; another type counts as lost.
local function learned(key)
  return redis.call('TYPE', key).ok == 'string' and redis.call('GET', key) or ''
end

local function is_whole(argument)
  local number = tonumber(argument)
  return number and number == math.floor(number) and number >= 0
end

-- Returns an error reply for the first of these arguments that is not a whole number.
local function not_whole(...)
  for _, at in ipairs({ ... }) do
    if not is_whole(ARGV[at]) then
      return refuse('argument ' .. at .. ' of ' .. #ARGV .. ' is missing or not a whole number')
    end
  end
end
