-- Shared by the scripts of the key slots and of the maintenance pause: put in front of each of them at build time.

local function refuse(text)
  return redis.error_reply('QUEUE ' .. text)
end

local function misused(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    return refuse('key ' .. key .. ' holds a ' .. found .. ', expected a ' .. expected)
  end
end

local function is_whole(argument)
  local number = tonumber(argument)
  return number and number == math.floor(number) and number >= 0
end
