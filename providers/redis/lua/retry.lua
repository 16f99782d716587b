-- Makes a job that has ended ready again, or a scheduled one, whose time has come.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 id, 3 the record of its end as it was read, or '' for a scheduled one, 4 its type, 5 its digest
--          if its id is indexed, 6 its envelope (new; for a scheduled one as it is), 7 the states and 8 the unique key that
--          it has, or '' twice, 9 of a scheduled one the envelope that it gets
-- Answers  1 if it changed something
despite_oom()
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local id, record, kind, digest, item = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if record == '' then
  if call('ZREM', K .. 'due', item) == 0 then
    return 0
  end
  ready(parse(ARGV[9]), false)
  call('PUBLISH', K .. 'bell', '')
  return 1
end
if call('HGET', K .. 'ends', id) ~= record then
  return 0
end
local e = item ~= '' and parse(item) or { mark = 'E', id = id }
if ARGV[8] ~= '' then
  local _, _, holder = jobs_of(ARGV[8], id)
  if holder then
    return 0
  end
  leave_key(id)
  -- Bytes that were never given their key ask for it when they are claimed.
  if e.mark == 'E' then
    take_key(ARGV[8], tonumber(ARGV[7]), own_name(e), id)
    set_state(e, 'r')
  end
end
call('HDEL', K .. 'ends', id)
call('HDEL', K .. 'handled', id)
call('ZREM', K .. 'forget', id)
if item == '' then
  -- It waits still: only the mark goes.
  call('HDEL', K .. 'marks', id)
else
  if digest ~= '' then
    call('HSET', K .. 'ids', id, digest)
    call('HSET', K .. 'state', id, 'r')
  end
  call('SADD', K .. 'types', kind)
  call('RPUSH', K .. 'lane:' .. kind, item)
end
call('PUBLISH', K .. 'bell', '')
return 1
