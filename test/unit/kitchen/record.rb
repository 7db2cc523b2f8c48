# frozen_string_literal: true

# Prints what Test Kitchen and its plugins make of the kitchen.yml beside this file, for recorded.json:
#
#     bundle exec ruby test/unit/kitchen/record.rb > test/unit/kitchen/recorded.json

require 'json'
require 'net/ssh'
require 'net/scp'
require 'yaml'
require 'kitchen'
require 'kitchen/driver/docker'
require 'kitchen/provisioner/salt_solo'
require 'kitchen/verifier/shell'

PARSED = %r{\A(etc/salt/minion|srv/pillar/.*|srv/salt/top\.sls)\z}.freeze

def docker_run(driver)
  container = driver.send(:container)
  container.send(:config)[:instance_name] = 'NAME'
  container.build_run_command('IMAGE', 22)
end

# What the driver installs in each image.
def packages(driver)
  driver.send(:container).dockerfile_platform[/apt-get install -y (.*)/, 1].split
end

def minion_files(provisioner)
  provisioner.create_sandbox
  Dir.chdir(provisioner.sandbox_path) do
    Dir.glob('{etc/salt/minion,srv/**/*}').select { |path| File.file?(path) }.sort.to_h do |path|
      text = File.read(path)
      [path, PARSED.match?(path) ? YAML.safe_load(text) : text]
    end
  end
ensure
  provisioner.cleanup_sandbox
end

Dir.chdir(__dir__)
Kitchen.logger = Kitchen::Logger.new(stdout: File.open(File::NULL, 'w'))
loader = Kitchen::Loader::YAML.new(project_config: File.join(__dir__, 'kitchen.yml'))
instances = Kitchen::Config.new(loader: loader, kitchen_root: __dir__, log_level: :error).instances
recorded = instances.to_h do |instance|
  instance.verifier.send(:merge_state_to_env, { container_id: 'NAME' })
  environment = instance.verifier[:shellout_opts][:environment].dup
  [instance.name,
   { suite: instance.suite.name, platform: instance.platform.name, image: instance.driver[:image],
     docker: docker_run(instance.driver), packages: packages(instance.driver), root: instance.provisioner[:root_path],
     files: minion_files(instance.provisioner), converges: !instance.provisioner.run_command.nil?,
     verify: instance.verifier[:command], environment: environment,
     hooks: instance.lifecycle_hooks.send(:config)[:pre_create].map { |hook| hook[:local] } }]
end
puts JSON.pretty_generate(recorded)
