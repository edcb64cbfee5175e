# With a VPC: no inbound traffic. Outbound: TLS to anywhere (the API, AWS), and the two servers.

locals {
  in_vpc   = var.vpc == null ? 0 : 1
  nat_eips = var.vpc == null ? [] : var.vpc.nat_eip_allocation_ids
}

resource "aws_security_group" "this" {
  count = local.in_vpc

  # A prefix: the new group exists beside the old one while it is replaced, and two cannot have one name.
  name_prefix = "${var.name}-"
  description = "CoC refresh worker: nothing in, API and stores out"
  vpc_id      = var.vpc.id
  tags        = merge(local.tags, { Name = var.name })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  count = local.in_vpc

  security_group_id = aws_security_group.this[0].id
  description       = "Clash of Clans API and AWS, through the NAT gateway"
  cidr_ipv4         = "0.0.0.0/0"
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "database" {
  count = local.in_vpc

  security_group_id            = aws_security_group.this[0].id
  description                  = "PostgreSQL"
  referenced_security_group_id = var.vpc.database_security_group_id
  cidr_ipv4                    = var.vpc.database_security_group_id == null ? var.vpc.database_cidr : null
  from_port                    = var.vpc.database_port
  to_port                      = var.vpc.database_port
  ip_protocol                  = "tcp"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "redis" {
  count = local.in_vpc

  security_group_id            = aws_security_group.this[0].id
  description                  = "Redis or Valkey"
  referenced_security_group_id = var.vpc.redis_security_group_id
  cidr_ipv4                    = var.vpc.redis_security_group_id == null ? var.vpc.redis_cidr : null
  from_port                    = var.vpc.redis_ports.first
  to_port                      = var.vpc.redis_ports.last
  ip_protocol                  = "tcp"
  tags                         = local.tags
}

# By number: an id is not known yet when the same apply creates the address.
data "aws_eip" "nat" {
  for_each = { for index, id in local.nat_eips : index => id }

  id = each.value
}

# A warning, not a refusal: EGRESS_IPS or a proxy in COC_BASE_URL can stand for an address that this module does not know.
check "keys_fit_addresses" {
  assert {
    condition = (
      length(data.aws_eip.nat) > 0 ||
      anytrue([for name in ["EGRESS_IPS", "COC_BASE_URL"] : contains(keys(var.environment_variables), name)]) ||
      !anytrue([for name in ["COC_API_TOKEN", "COC_API_TOKENS"] : contains(local.secret_names, name)])
    )
    error_message = "The worker has no address that stays (no vpc.nat_eip_allocation_ids), but keys of its own: COC_API_TOKEN or COC_API_TOKENS. The API refuses a key at every address but its own. Use COC_EMAIL and COC_PASSWORD, so that the worker creates its keys for the address it has; or give it a VPC with a NAT gateway; or name the addresses in EGRESS_IPS, if they do not change."
  }
}
