"""The ``Policy`` service: live simulators ask for actions, whoever runs the policy answers."""
