-- Registers the services of this host as a node: the runbook's own statement, with the names from the environment. Run by
-- `docker compose … run --rm gpu-seeder`; the watchdog corrects service_health within seconds.
\getenv node GPU_NODE_ID
\getenv host GPU_NODE_HOST
\getenv size GPU_NODE_SIZE
\getenv llama LLAMA_PORT
\getenv chatterbox CHATTERBOX_PORT
\getenv whisper WHISPER_PORT
\getenv qwen QWEN_PORT

INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health, monthly_cost_cents)
VALUES (
  :'node',
  :'host',
  'local',
  :'size',
  'active',
  'done',
  '{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}',
  0
) ON CONFLICT (id) DO UPDATE SET
  host = :'host',
  status = 'active',
  provision_stage = 'done',
  service_health = '{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}',
  updated_at = EXTRACT(epoch FROM now())::bigint;

-- Where the services listen, should .env.local say otherwise than the runbook.
UPDATE gpu_nodes SET ports = jsonb_build_object(
  'llama', :llama, 'chatterbox', :chatterbox, 'whisper', :whisper, 'qwen', :qwen
) WHERE id = :'node';
