# No inbound traffic. Outbound: TLS to anywhere (the API, AWS), and the two servers.

resource "aws_security_group" "this" {
  name        = var.name
  description = "CoC refresh worker: nothing in, API and stores out"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = var.name })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.this.id
  description       = "Clash of Clans API and AWS, through the NAT gateway"
  cidr_ipv4         = "0.0.0.0/0"
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "database" {
  security_group_id            = aws_security_group.this.id
  description                  = "PostgreSQL"
  referenced_security_group_id = var.database_security_group_id
  from_port                    = var.database_port
  to_port                      = var.database_port
  ip_protocol                  = "tcp"
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "redis" {
  security_group_id            = aws_security_group.this.id
  description                  = "Redis or Valkey"
  referenced_security_group_id = var.redis_security_group_id
  from_port                    = var.redis_ports.first
  to_port                      = var.redis_ports.last
  ip_protocol                  = "tcp"
  tags                         = local.tags
}

# By number: an id is not known yet when the same apply creates the address.
data "aws_eip" "nat" {
  for_each = { for index, id in var.nat_eip_allocation_ids : index => id }

  id = each.value
}
