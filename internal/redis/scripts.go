package redis

import "github.com/redis/go-redis/v9"

// Every script names its KEYS, ARGV and what it returns. All keys of a call are in
// one slot.

// scriptChange counts a write in a partition and tells all processes of it.
//
//	KEYS 1 version of the partition
//	ARGV 1 channel, 2 number of the partition, 3… digests and tag keys (none: all)
//	returns the new version
//
// Scripts that write data do the same at their end: luaChanged.
var scriptChange = redis.NewScript(luaChanged + `
local names = {}
for i = 3, #ARGV do names[#names + 1] = ARGV[i] end
return changed(KEYS[1], ARGV[1], ARGV[2], names)
`) //nolint:gochecknoglobals // constants that the language has no word for

// luaChanged defines changed(version key, channel, partition, names) for scripts
// that write what stamps tell of. A message is PARTITION LF VERSION and for each
// name LF NAME.
const luaChanged = `
local function changed(key, channel, part, names)
  local version = redis.call('INCR', key)
  local message = part .. '\n' .. version
  if #names > 0 then message = message .. '\n' .. table.concat(names, '\n') end
  redis.call('PUBLISH', channel, message)
  return version
end
`

// scriptRenew moves the end of a lease that is still held.
//
//	KEYS 1 lease
//	ARGV 1 token, 2 milliseconds
//	returns 1, or 0 when it is another's or gone
var scriptRenew = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`) //nolint:gochecknoglobals // see scriptChange

// scriptRelease gives a lease back and tells who waits for it.
//
//	KEYS 1 lease
//	ARGV 1 token, 2 channel, 3 name
//	returns 1, or 0 when it is another's or gone
var scriptRelease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
`) //nolint:gochecknoglobals // see scriptChange

// The queue. All its scripts get the same KEYS, in the order of queueKeys:
//
//	KEYS 1 jobs, 2 jobs.open, 3 jobs.ready, 4 jobs.later, 5 jobs.held, 6 jobs.line,
//	     7 jobs.dead, 8 jobs.turns, 9 jobs.paused, 10 jobs.tokens, 11 alive, 12 heard
//
// A job is a JSON object: g registry, r repository, t tag, p priority, a attempts, b
// not before, e error, l token, u leased until, h holder, o opened, x died ("" when
// open), n turn, q number. Times are nanoseconds in 20 digits, turns and numbers have
// 16, so that text is in their order: Lua's numbers are too short for them.
//
// An open job is in jobs.open and jobs.line, and in one of jobs.ready, jobs.later and
// jobs.held, its shelf. All of these are sorted sets of equal scores, in the order of
// their members; the place of a job in one is found in the logarithm of its length:
//
//	jobs.open, jobs.ready  priority, turn, number, digest
//	jobs.later             priority, not before, turn, number, digest
//	jobs.held              priority, leased until, turn, number, digest
//	jobs.line              priority, REGISTRY/REPO, NUL, turn, number
//	jobs.dead              died, number, digest
const luaQueue = `
local JOBS, OPEN, READY, LATER, HELD, LINE, DEAD, TURNS, PAUSED, TOKENS, ALIVE, HEARD = unpack(KEYS)
local never = string.rep('0', 20)

local function read(d)
  local s = redis.call('HGET', JOBS, d)
  return s and cjson.decode(s)
end

local function keep(d, j)
  local s = cjson.encode(j)
  redis.call('HSET', JOBS, d, s)
  return s
end

-- The turn of a job that is opened now: the one after its repository's last open job,
-- but none that has passed.
local function turn(p, repo)
  local n = tonumber(redis.call('HGET', TURNS, p) or '0')
  local last = redis.call('ZREVRANGEBYLEX', LINE, '[' .. p .. repo .. '\1', '[' .. p .. repo .. '\0', 'LIMIT', 0, 1)[1]
  if last then n = math.max(n, tonumber(string.sub(last, -32, -17)) + 1) end
  return string.format('%016d', n)
end

local function repo(j) return j.g .. '/' .. j.r end

local function enter(d, j)
  redis.call('ZADD', OPEN, 0, j.p .. j.n .. j.q .. d)
  redis.call('ZADD', LINE, 0, j.p .. repo(j) .. '\0' .. j.n .. j.q)
end

local function leave(d, j)
  redis.call('ZREM', OPEN, j.p .. j.n .. j.q .. d)
  redis.call('ZREM', LINE, j.p .. repo(j) .. '\0' .. j.n .. j.q)
end

-- aside takes a job from its shelf and returns which that was.
local function aside(d, j)
  local place = j.n .. j.q .. d
  if redis.call('ZREM', HELD, j.p .. j.u .. place) == 1 then return 'held' end
  if redis.call('ZREM', LATER, j.p .. j.b .. place) == 1 then return 'later' end
  redis.call('ZREM', READY, j.p .. place)
  return 'ready'
end

local function shelve(d, j, shelf)
  local place = j.n .. j.q .. d
  if shelf == 'held' then redis.call('ZADD', HELD, 0, j.p .. j.u .. place)
  elseif shelf == 'later' then redis.call('ZADD', LATER, 0, j.p .. j.b .. place)
  else redis.call('ZADD', READY, 0, j.p .. place) end
end

-- push opens a job, or raises an open one; 1 when there may be more to take than before.
local function push(d, registry, repository, tag, p, now)
  local j = read(d)
  if j and j.x ~= '' then
    redis.call('ZREM', DEAD, j.x .. j.q .. d)
    j = nil
  end
  if not j then
    j = {g = registry, r = repository, t = tag, p = p, a = 0, b = now, e = '', l = '', u = never, h = '', o = now, x = ''}
    j.n = turn(p, repo(j))
    j.q = string.format('%016d', redis.call('HINCRBY', TURNS, 'number', 1))
    enter(d, j)
    shelve(d, j, 'ready')
    keep(d, j)
    return 1
  end
  local hurried = p == '0' and j.b > now
  if p >= j.p and not hurried then return 0 end
  local shelf = aside(d, j)
  leave(d, j)
  if p < j.p then
    j.n = turn(p, repo(j))
    j.p = p
  end
  if hurried then
    j.b = now
    if shelf == 'later' then shelf = 'ready' end
  end
  enter(d, j)
  shelve(d, j, shelf)
  keep(d, j)
  if shelf == 'held' then return 0 end
  return 1
end

-- mine reads a job that is open under a token.
local function mine(d, token)
  local j = read(d)
  if j and j.x == '' and j.l == token then return j end
end

local function forget(j)
  if j.l ~= '' then redis.call('HDEL', TOKENS, j.l) end
  j.l = ''
end

-- release lets a held job be taken; its token is kept, in case that its holder lives
-- after all and renews it first.
local function release(d, j)
  aside(d, j)
  j.u, j.h = never, ''
  shelve(d, j, 'later')
  keep(d, j)
end
`

// scriptPush opens a job, or raises an open one, and tells all processes.
//
//	KEYS those of the queue
//	ARGV 1 channel, 2 now, 3 digest, 4 registry, 5 repository, 6 tag, 7 priority
//	returns 1, or 0 when there is not more to take than before
var scriptPush = redis.NewScript(luaQueue + `
local more = push(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[2])
if more == 1 then redis.call('PUBLISH', ARGV[1], '') end
return more
`) //nolint:gochecknoglobals // see scriptChange

// scriptTake leases the next job. A call that is repeated with its token returns the
// same job.
//
//	KEYS those of the queue
//	ARGV 1 token, 2 holder, 3 now, 4 end of the lease, 5 the time before which leases
//	     of others have ended for sure, 6 how many jobs whose time has come are moved
//	     in at most, 7… priorities, the most urgent first
//	returns digest and job, or nil when there is none
var scriptTake = redis.NewScript(luaQueue + `
local token, me, now, sure, most = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6]
local before = redis.call('HGET', TOKENS, token)
if before then return {before, redis.call('HGET', JOBS, before)} end

local function due(shelf, p)
  return ipairs(redis.call('ZRANGEBYLEX', shelf, '[' .. p, '(' .. p .. now .. ':', 'LIMIT', 0, most))
end

local function next(p)
  for _, m in due(LATER, p) do
    redis.call('ZREM', LATER, m)
    redis.call('ZADD', READY, 0, p .. string.sub(m, 22))
  end
  for _, m in due(HELD, p) do
    local ended = string.sub(m, 2, 21) <= sure
    if not ended then
      local j = read(string.sub(m, 54))
      ended = not j or j.h == me
    end
    if ended then
      redis.call('ZREM', HELD, m)
      redis.call('ZADD', READY, 0, p .. string.sub(m, 22))
    end
  end
  while true do
    local m = redis.call('ZRANGEBYLEX', READY, '[' .. p, '(' .. p .. ':', 'LIMIT', 0, 1)[1]
    if not m then return end
    redis.call('ZREM', READY, m)
    local d = string.sub(m, 34)
    local j = read(d)
    if j then return d, j end
  end
end

for i = 7, #ARGV do
  local p = ARGV[i]
  if redis.call('HEXISTS', PAUSED, p) == 0 then
    local d, j = next(p)
    if d then
      forget(j)
      j.l, j.u, j.h = token, ARGV[4], me
      redis.call('HSET', TOKENS, token, d)
      shelve(d, j, 'held')
      if tonumber(j.n) > tonumber(redis.call('HGET', TURNS, p) or '0') then redis.call('HSET', TURNS, p, j.n) end
      return {d, keep(d, j)}
    end
  end
end
return false
`) //nolint:gochecknoglobals // see scriptChange

// scriptRenewJob moves the end of a job's lease.
//
//	KEYS those of the queue
//	ARGV 1 digest, 2 token, 3 holder, 4 new end
//	returns 1, or 0 when it is closed or another's
var scriptRenewJob = redis.NewScript(luaQueue + `
local j = mine(ARGV[1], ARGV[2])
if not j then return 0 end
aside(ARGV[1], j)
j.h, j.u = ARGV[3], ARGV[4]
shelve(ARGV[1], j, 'held')
keep(ARGV[1], j)
return 1
`) //nolint:gochecknoglobals // see scriptChange

// scriptFinish ends a holding of a job. Its token ends with it: a call that is
// repeated finds nothing, and counts no attempt twice.
//
//	KEYS those of the queue
//	ARGV 1 digest, 2 token, 3 "done", "retry" or "dead", 4 when it may be tried again,
//	     or died, 5 error
//	returns 1, or 0 when it is closed or another's
var scriptFinish = redis.NewScript(luaQueue + `
local d, how = ARGV[1], ARGV[3]
local j = mine(d, ARGV[2])
if not j then return 0 end
forget(j)
aside(d, j)
local behind = how == 'retry' and turn(j.p, repo(j)) -- while it counts itself
leave(d, j)
if how == 'done' then return redis.call('HDEL', JOBS, d) end
j.a, j.e, j.u, j.h = j.a + 1, ARGV[5], never, ''
if how == 'retry' then
  j.n, j.b = behind, ARGV[4]
  enter(d, j)
  shelve(d, j, 'later')
else
  j.b, j.x = never, ARGV[4]
  redis.call('ZADD', DEAD, 0, j.x .. j.q .. d)
end
keep(d, j)
return 1
`) //nolint:gochecknoglobals // see scriptChange

// scriptReopen opens dead jobs again, the longest dead first, or lets one that failed
// be taken at once, and tells all processes.
//
//	KEYS those of the queue
//	ARGV 1 channel, 2 now, 3 digest, or "" for all that are dead, 4 how many at most
//	returns how many
var scriptReopen = redis.NewScript(luaQueue + `
local now = ARGV[2]
local function reopen(d, j)
  local p = j.p
  if p == '0' then p = '1' end
  push(d, j.g, j.r, j.t, p, now)
end
local n = 0
if ARGV[3] == '' then
  for _, m in ipairs(redis.call('ZRANGE', DEAD, 0, ARGV[4] - 1)) do
    local d = string.sub(m, 37)
    local j = read(d)
    if j then reopen(d, j) else redis.call('ZREM', DEAD, m) end
    n = n + 1
  end
else
  local d = ARGV[3]
  local j = read(d)
  if j and j.x ~= '' then
    reopen(d, j)
    n = 1
  elseif j and j.u <= now and j.b > now then
    aside(d, j)
    j.b = now
    shelve(d, j, 'ready')
    keep(d, j)
    n = 1
  end
end
if n > 0 then redis.call('PUBLISH', ARGV[1], '') end
return n
`) //nolint:gochecknoglobals // see scriptChange

// scriptForget removes dead jobs.
//
//	KEYS those of the queue
//	ARGV 1 those that died before this time, 2 and all but so many, 3 how many at most
//	returns how many were removed; there may be more when it is as many as asked for
var scriptForget = redis.NewScript(luaQueue + `
local n = 0
local function drop(members)
  for _, m in ipairs(members) do
    redis.call('HDEL', JOBS, string.sub(m, 37))
    n = n + redis.call('ZREM', DEAD, m)
  end
end
local surplus = math.min(redis.call('ZCARD', DEAD) - ARGV[2], ARGV[3])
if surplus > 0 then drop(redis.call('ZRANGE', DEAD, 0, surplus - 1)) end
if n < tonumber(ARGV[3]) then
  drop(redis.call('ZRANGEBYLEX', DEAD, '-', '(' .. ARGV[1], 'LIMIT', 0, ARGV[3] - n))
end
return n
`) //nolint:gochecknoglobals // see scriptChange

// scriptBeat says that a process lives, and lets the jobs be taken whose holders do
// not. Time is counted as far as anybody was heard: a gap of more than ARGV 3 is
// one in which Redis was away, and nobody is dead for having been silent in it.
//
//	KEYS those of the queue
//	ARGV 1 holder, 2 for how many milliseconds it lives without another beat (0: it
//	     ends now), 3 milliseconds that a gap counts at most, 4 channel, 5… tokens of
//	     calls of scriptTake that were not answered: nobody works on their jobs
//	returns those that are gone since the last beat, and how many jobs were let go
var scriptBeat = redis.NewScript(luaQueue + `
local me, ttl = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(redis.call('HGET', HEARD, 'at') or now)
local heard = tonumber(redis.call('HGET', HEARD, 'sum') or 0) + math.max(0, math.min(now - last, tonumber(ARGV[3])))
redis.call('HSET', HEARD, 'at', string.format('%.0f', now), 'sum', string.format('%.0f', heard))
redis.call('ZADD', ALIVE, ttl > 0 and heard + ttl or heard - 1, me)

local freed = 0
for i = 5, #ARGV do
  local d = redis.call('HGET', TOKENS, ARGV[i])
  local j = d and mine(d, ARGV[i])
  if j then
    forget(j)
    release(d, j)
    freed = freed + 1
  end
end
local gone = redis.call('ZRANGEBYSCORE', ALIVE, '-inf', '(' .. string.format('%.0f', heard))
if #gone > 0 then
  redis.call('ZREM', ALIVE, unpack(gone))
  local alive = {}
  for _, name in ipairs(redis.call('ZRANGE', ALIVE, 0, -1)) do alive[name] = true end
  for _, m in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
    local d = string.sub(m, 54)
    local j = read(d)
    if j and not alive[j.h] then
      release(d, j)
      freed = freed + 1
    end
  end
end
if freed > 0 then redis.call('PUBLISH', ARGV[4], '') end
return {gone, freed}
`) //nolint:gochecknoglobals // see scriptChange
