-- State that must not be lost is kept twice: as a string that Redis expires, and as a field '<ms of its end> <value>' of one hash
-- that does not expire. Keys expire, are evicted and are deleted one by one, and one copy restores the other. A copy of another
-- type or content counts as lost. Put behind common.lua in front of each script; the hash is the last of the script's keys.

local COPIES = KEYS[#KEYS]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function name_of(key)
  return string.match(key, ':(.*)$')
end

-- Returns the value and the ms that are left to it; nil when there is none.
local function kept(key, is_sound)
  local value, left
  if redis.call('TYPE', key).ok == 'string' then
    value, left = redis.call('GET', key), redis.call('PTTL', key)
    if is_sound and not is_sound(value) then
      value, left = nil, nil
    end
  end
  if redis.call('TYPE', COPIES).ok == 'hash' then
    local ends, copy = string.match(redis.call('HGET', COPIES, name_of(key)) or '', '^(%d+) (.*)$')
    local copy_left = (tonumber(ends) or 0) - now
    if copy_left > 0 and copy_left > (left or 0) and not (is_sound and not is_sound(copy)) then
      return copy, copy_left
    end
  end
  return value, left
end

-- A write that only frees comes first, as in put().
local function keep(key, value, life)
  redis.call('DEL', key)
  if redis.call('TYPE', COPIES).ok ~= 'hash' then
    redis.call('DEL', COPIES)
  end
  redis.call('HSET', COPIES, name_of(key), string.format('%.0f', now + life) .. ' ' .. value)
  redis.call('SET', key, value, 'PX', string.format('%.0f', life))
end

local function forget(key)
  redis.call('DEL', key)
  if redis.call('TYPE', COPIES).ok == 'hash' then
    redis.call('HDEL', COPIES, name_of(key))
  end
end

local function is_cooling_down(holder)
  return holder ~= nil and string.sub(holder, 1, 9) == 'cooldown:'
end
