-- Brings jobs of GoWorker's interrupted runs back: to the front of a list, since they had been popped before all that
-- waits there.
--
-- KEYS[1]   see head.lua
-- KEYS[2]   the list
-- KEYS[3..] keys of GoWorker's, `tmp_job:value:HASH`: a job that it had popped. While `tmp_job:lock:HASH` is there it was
--           popped within the last 30 s; where GoWorker gave a job out once more, it put the whole first key in HASH's
--           place
-- ARGV      1 format, 2 1 to bring them back, 0 to count them
-- Answers   { how many are (or were) nobody's, how many are locked }
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local move, free, locked = ARGV[2] == '1', 0, 0
if move then
  -- Over its memory limit Redis lets go on what has written already.
  call('DEL', K .. 'oom')
end
for i = 3, #KEYS do
  local key = KEYS[i]
  local hash = sub(key, #'tmp_job:value:' + 1)
  if call('EXISTS', key) == 1 then
    if call('EXISTS', 'tmp_job:lock:' .. hash, 'tmp_job:lock:' .. key) > 0 then
      locked = locked + 1
    else
      free = free + 1
      if move then
        call('LPUSH', KEYS[2], call('GET', key))
        call('DEL', key)
      end
    end
  end
end
return { free, locked }
