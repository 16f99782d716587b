-- An order about one job: cancel or remove it.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 `cancel` or `remove`, 3 id, 4 where a search has found it: '' (it was not looked for),
--          `w` (in a lane or a list), `d` (in due), `R token/index`; 5 what was found there
-- Answers  1 if it changed something, 0 if not, -1 if it is to be looked for, or no longer where it was found
despite_oom()
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local order, id, where, item = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
if call('HEXISTS', K .. 'ends', id) == 1 and sub(where, 1, 1) ~= 'R' then
  if order == 'cancel' then
    return 0
  end
  call('HDEL', K .. 'ends', id)
  call('HDEL', K .. 'handled', id)
  call('ZREM', K .. 'forget', id)
  leave_key(id)
  return 1
end
local state = call('HGET', K .. 'state', id)
if state == 'r' then
  where = 'w'
elseif state and state ~= 's' then
  where = state
end
local claim, index
if sub(where, 1, 1) == 'R' then
  local token
  token, index = string.match(where, '^R (.*)/(%d+)$')
  claim, index = claim_of(token), tonumber(index)
  if not claim or not is_open(claim, index) then
    return -1
  end
  -- A suspect that waits is held by nobody.
  if sub(token, 1, 1) ~= 's' then
    if order == 'remove' then
      return 0
    end
    if call('HDEL', K .. 'marks', id) == 1 then
      -- It was claimed between the search that saw it wait and the mark.
      call('HDEL', K .. 'ends', id)
      call('ZREM', K .. 'forget', id)
    end
    call('HSET', K .. 'cancel', token .. '/' .. index, 1)
    return 1
  end
end

local e = { mark = state and 'E' or 'e', id = id, keep = 0 }
if claim then
  e = envelope_of(claim, index)
  shut(claim, index)
  flush()
elseif where == 'd' then
  if call('ZREM', K .. 'due', item) == 0 then
    return -1
  end
  e = parse(item) or e
elseif where == 'w' then
  call('HSET', K .. 'marks', id, 1)
  e = item ~= '' and (parse(item) or wrap(item, '', 0, 0)) or e
else
  return -1
end
unindex(e)
if order == 'cancel' then
  remember_end(e, 'cancelled', now, 'cancelled before it ran', '', false)
elseif e.mark == 'E' then
  leave_key(own_name(e))
end
call('PUBLISH', K .. 'ended', id)
return 1
