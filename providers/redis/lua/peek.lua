-- How long there is surely nothing to claim. Changes nothing.
--
-- KEYS[1]    see head.lua
-- KEYS[2..]  the producers' lists
-- ARGV       1 format, 2 1 if a suspect may be leased, 3 1 if one that has crashed may, 4 a number that changes;
--            5.. the types that have room
-- Answers    milliseconds; 0 if there may be something now, -1 if nothing is ever due
local meta = call('HMGET', K .. 'meta', 'oldest', 'hold')
local refused = refusal(meta[1])
if refused then
  return refused
end
local now = now_ms()
for i = 2, #KEYS do
  if call('LLEN', KEYS[i]) > 0 then
    return 0
  end
end
if call('LLEN', K .. 'lane:') > 0 then
  return 0
end
local room = {}
for i = 5, #ARGV do
  room[ARGV[i]] = 1
  if call('LLEN', K .. 'lane:' .. ARGV[i]) > 0 then
    return 0
  end
end
local pause = -1
local function at(time)
  local left = tonumber(time) - now
  if pause < 0 or left < pause then
    pause = math.max(left, 0)
  end
end
local due = call('ZRANGE', K .. 'due', 0, 0, 'WITHSCORES')
if due[2] then
  at(due[2])
end
if ARGV[2] == '1' then
  local hold = tonumber(meta[2]) or 0
  if now < hold then
    at(hold)
  elseif find_suspect(now, room, ARGV[3] == '1', tonumber(ARGV[4])) then
    return 0
  end
  local runs_out = call('ZRANGEBYSCORE', K .. 'leases', '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if runs_out[2] then
    at(runs_out[2])
  end
end
return pause
