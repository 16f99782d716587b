-- Who holds which unique key. A job holds its key by being in one of the states that it names, and by nothing else: where
-- it is is read where somebody asks for the key, from the same places as ever.
--
-- K unique has for each key, after a `k`, its jobs, packed, three fields each: the job's own name, the id that people
-- know it by, and its states as a sum of STATES; and for each of these jobs its key, by its own name after an `i`.
local STATES = { s = 1, r = 2, R = 4, done = 8, dead = 16, cancelled = 32, expired = 64 }
-- So many jobs of a key are known, while their states let more than one in; beyond it the first counts as its holder.
local KEY_JOBS_MAX = 100

-- What a job is indexed by: its id; where it is a producer's bytes, which may name the id of another, its first claim.
local function own_name(e)
  if e.kind == 'R' then
    local token, index = string.match(e.first, '^(.*)/(%d+)/')
    if token then
      return 'c-' .. token .. '-' .. index
    end
  end
  return e.id
end

-- The state of a job, as one of STATES; nothing if it is gone.
local function state_of(name, id)
  local state = call('HGET', K .. 'state', name)
  if state then
    local token, index = string.match(state, '^R (.*)/(%d+)$')
    if not token then
      return STATES[state]
    end
    local claim = claim_of(token)
    return claim and is_open(claim, tonumber(index)) and STATES.R or nil
  end
  local record = call('HGET', K .. 'ends', id)
  return record and STATES[cmsgpack.unpack(record)[1]]
end

-- The jobs of a key without the one of this name, those that are gone, and the id of the one that holds it.
local function jobs_of(key, name)
  local packed = call('HGET', K .. 'unique', 'k' .. key)
  local all, jobs, gone, holder = packed and cmsgpack.unpack(packed) or {}, {}, {}, nil
  for i = 1, #all, 3 do
    local state = all[i] ~= name and state_of(all[i], all[i + 1])
    if state then
      local n = #jobs
      jobs[n + 1], jobs[n + 2], jobs[n + 3] = all[i], all[i + 1], all[i + 2]
      if bit.band(all[i + 2], state) > 0 then
        holder = holder or all[i + 1]
      end
    elseif all[i] ~= name then
      gone[#gone + 1] = all[i]
    end
  end
  if #jobs >= 3 * KEY_JOBS_MAX then
    holder = holder or jobs[2]
  end
  return jobs, gone, holder
end

local function write_jobs(key, jobs)
  if #jobs > 0 then
    call('HSET', K .. 'unique', 'k' .. key, cmsgpack.pack(jobs))
  else
    call('HDEL', K .. 'unique', 'k' .. key)
  end
end

-- Whether there are any; looked up once.
local uniques

-- Gives a job its key, or answers the id of the job that holds it.
local function take_key(key, states, name, id)
  local jobs, gone, holder = jobs_of(key, name)
  if holder then
    return holder
  end
  local n = #jobs
  jobs[n + 1], jobs[n + 2], jobs[n + 3] = name, id, states
  write_jobs(key, jobs)
  call('HSET', K .. 'unique', 'i' .. name, key)
  uniques = true
  for _, other in ipairs(gone) do
    call('HDEL', K .. 'unique', 'i' .. other)
  end
end

-- A job has ended in this state, or its end is forgotten: it leaves its key, unless that is one of its states and the end
-- is on record under the id given. Answers its key and its states, where it had one.
local function leave_key(name, id, state)
  if uniques == nil then
    uniques = call('EXISTS', K .. 'unique') == 1
  end
  local key = uniques and call('HGET', K .. 'unique', 'i' .. name)
  if not key then
    return nil
  end
  local packed, jobs, states = call('HGET', K .. 'unique', 'k' .. key), {}, 0
  local all = packed and cmsgpack.unpack(packed) or {}
  for i = 1, #all, 3 do
    local stays = all[i] ~= name
    if not stays then
      states = all[i + 2]
      stays = id and bit.band(states, STATES[state]) > 0
      all[i] = id or name
    end
    if stays then
      local n = #jobs
      jobs[n + 1], jobs[n + 2], jobs[n + 3] = all[i], all[i + 1], all[i + 2]
    end
  end
  local left = #jobs == #all
  if left and id == name then
    return key, states
  end
  call('HDEL', K .. 'unique', 'i' .. name)
  if left and id then
    call('HSET', K .. 'unique', 'i' .. id, key)
  end
  write_jobs(key, jobs)
  return key, states
end

local function duplicate_of(holder)
  return 'a duplicate: job ' .. holder .. ' holds its `unique` key'
end
